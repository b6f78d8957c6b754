"""What a client's call may fail with, drawn from the server's problem+json.

ApiError
├── Unreachable        no answer, or 502, 503, 504: passes, hence retried
├── Corrupt            bytes that do not match their digest, or a path that leads outside
└── Refused            the server answered with an error (`status`, `problem`)
    ├── KeyRefused     401
    ├── Missing        404
    ├── InConflict     409
    └── Invalid        422, `problem.errors` points at each fault
"""

from __future__ import annotations

import httpx2
from pydantic import ValidationError

from api.schemas import Problem

_PASSING = frozenset({502, 503, 504})


class ApiError(Exception):
    """A call that did not succeed."""


class Unreachable(ApiError):
    """The server did not answer, or cannot at present."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Corrupt(ApiError):
    """What came is not what was promised; it was not kept."""


class Refused(ApiError):
    """The server's error."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.status = problem.status


class KeyRefused(Refused):
    """The API key is missing, unknown or revoked."""


class Missing(Refused):
    """There is no such thing."""


class InConflict(Refused):
    """The present state does not allow it."""


class Invalid(Refused):
    """The request must be put right."""


_KINDS: dict[int, type[Refused]] = {401: KeyRefused, 404: Missing, 409: InConflict, 422: Invalid}


def failure_of(answer: httpx2.Response) -> ApiError:
    """The exception for an error answer whose body has been read."""
    problem = _problem(answer)
    if answer.status_code in _PASSING:
        told = answer.headers.get("retry-after", "")
        return Unreachable(problem.detail, min(float(told), 30.0) if told.isdecimal() else None)
    return _KINDS.get(answer.status_code, Refused)(problem)


def _problem(answer: httpx2.Response) -> Problem:
    """The body, or the nearest thing where something in between answered in its own words."""
    try:
        return Problem.model_validate_json(answer.content)
    except ValidationError:
        return Problem(
            type="about:blank",
            title=answer.reason_phrase,
            status=answer.status_code,
            detail=f"the server answered {answer.status_code} {answer.reason_phrase}",
            request_id=answer.headers.get("x-request-id", "unknown"),
        )
