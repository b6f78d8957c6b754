"""A timed right to run a job, and the rules by which a failed attempt is followed by another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from workers.errors import FaultClass

WORKER_LOST = "worker_lost"
"""Code of an attempt whose worker is gone."""

FILES_LOST = "files_lost"
"""Code of an attempt whose files were removed from the store before they were committed."""

STAGE_DEADLINE = "stage_deadline"
"""Code of an attempt that was stopped because a stage took too long."""

Counted = Literal["without_progress", "of_this_class"]

RETRIED_BY: Mapping[FaultClass, Counted | None] = {
    "recipe": None,  # the same recipe fails again
    "out_of_memory": None,  # and so does one that is too large: it wants other settings, or another node
    "transient": "without_progress",  # an attempt that gets further begins a new count
    "deadline": "of_this_class",  # a slow stage gets further too: progress must not make it endless
}
"""Of each class of fault, which attempts are counted before a job is given up; None: it is given up at once."""


@dataclass(frozen=True)
class Lease:
    """The right to write one attempt's facts; void once its token is replaced or its time is over."""

    job_id: str
    attempt_id: str
    number: int
    """Which attempt of the job, from 1."""
    token: str
    last_sequence: int
    """The attempt's last event already committed when the lease was taken; 0 if none."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended that could not say so itself."""

    fault: FaultClass
    code: str
    message: str


@dataclass(frozen=True)
class RetryRules:
    """How often and how soon a job is tried again, by the class of its fault (`RETRIED_BY`)."""

    max_attempts: int = 5
    """Without getting further: each attempt that gets further than those before it is the first of a new count."""
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    max_overruns: int = 2
    """Attempts that may end at a stage's deadline, the first one included."""

    def wait_seconds(self, attempts: int) -> float:
        """Seconds to wait after so many attempts without progress: doubled each time, up to the cap."""
        return float(min(self.first_wait_seconds * 2.0 ** min(max(attempts - 1, 0), 30), self.longest_wait_seconds))

    def allow_another(self, attempts: int, fault: FaultClass = "transient") -> bool:
        """Whether a job that had so many attempts, counted as its fault's class says, may have one more."""
        match RETRIED_BY[fault]:
            case "without_progress":
                return attempts < self.max_attempts
            case "of_this_class":
                return attempts < self.max_overruns
        return False


def is_retryable(fault: FaultClass) -> bool:
    """Whether the same recipe, unchanged, may well succeed the next time."""
    return RETRIED_BY[fault] is not None
