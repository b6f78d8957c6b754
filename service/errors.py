"""What may go wrong in the service; `api/errors.py` alone knows HTTP statuses.

ServiceError
├── NotFound              no such job, artifact, data set, key
├── Conflict              the thing is not in a state that allows it
│   └── LeaseLost         another dispatcher may hold the job by now: write nothing, let go
├── IdempotencyMismatch   one idempotency key, two bodies
├── InvalidRecipe         a recipe, or a search, that could never run (`field`, `detail`)
├── InvalidText           an upload that is no text in UTF-8
├── TooLarge              an upload beyond what this deployment takes
├── NoRoom                the artifact store's disk is full
├── StoreSilent           the artifact store does not answer at present
├── Unauthenticated       no valid key
└── Misconfigured         the deployment must be set right by its operator
    └── SchemaOutdated    `dress migrate` must run first
"""

from typing import ClassVar

from workers.errors import RecipeError


class ServiceError(Exception):
    """A refusal with a stable code. The message says what to do."""

    code: ClassVar[str] = "service_error"


class NotFound(ServiceError):
    """What was asked for does not exist."""

    code = "not_found"


class Conflict(ServiceError):
    """The present state does not allow what was asked."""

    code = "conflict"


class LeaseLost(Conflict):
    """The write was refused: the lease has expired or was taken over."""

    code = "lease_lost"


class IdempotencyMismatch(ServiceError):
    """An idempotency key came back with another body."""

    code = "idempotency_mismatch"


class InvalidRecipe(ServiceError):
    """The recipe could never run; `field` is its path, such as `data.path`, or in a search `space.method.ratio`."""

    code = "invalid_recipe"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail

    @classmethod
    def of(cls, error: RecipeError) -> "InvalidRecipe":
        """The same complaint, in the service's words."""
        return cls(error.field, error.detail)


class InvalidText(ServiceError):
    """What was uploaded is not UTF-8, or holds no text."""

    code = "invalid_text"


class TooLarge(ServiceError):
    """An upload is larger than this deployment takes."""

    code = "body_too_large"


class NoRoom(ServiceError):
    """The artifact store's disk is full."""

    code = "storage_full"


class StoreSilent(ServiceError):
    """The artifact store cannot be written at present; asking again later may help."""

    code = "unavailable"


class Unauthenticated(ServiceError):
    """The caller showed no valid API key."""

    code = "unauthenticated"


class Misconfigured(ServiceError):
    """A setting of the deployment is wrong."""

    code = "misconfigured"


class SchemaOutdated(Misconfigured):
    """The database is not at the schema that this version needs."""

    code = "schema_outdated"
