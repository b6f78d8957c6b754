"""Whose fault a failure is, hence whether to retry.

WorkerError
├── RecipeError       the recipe asks for what cannot be had: never retried
├── Diverged          training blew up: never retried unchanged
├── OutOfMemory       the node's memory did not suffice: never retried unchanged
└── Transient         the surroundings failed: retried with backoff
    └── StorageFull   no room on the disk of the artifact store
"""

from typing import ClassVar, Literal

FaultClass = Literal["recipe", "out_of_memory", "transient", "deadline"]
"""`deadline`: a stage was stopped for taking too long. No worker says so of itself."""


class WorkerError(Exception):
    """A failure with a class and a stable code. The message says what went wrong and what to do."""

    fault: ClassVar[FaultClass] = "transient"
    code: ClassVar[str] = "transient"


class RecipeError(WorkerError):
    """The recipe asks for what cannot be had; `field` is its path, such as `data.samples`."""

    fault = "recipe"
    code = "invalid_recipe"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.detail = message


class Diverged(WorkerError):
    """The loss is no longer a number; the message says when and what to change."""

    fault = "recipe"
    code = "diverged"


class OutOfMemory(WorkerError):
    """Memory did not suffice; the message says what to change."""

    fault = "out_of_memory"
    code = "out_of_memory"


class Transient(WorkerError):
    """The surroundings failed (network, disk, node); the same attempt may well succeed later."""


class StorageFull(Transient):
    """There is no room for what was to be written; it may come back when somebody frees some."""
