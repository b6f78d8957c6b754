"""A timed right to run a job, and the rules by which a failed attempt is followed by another."""

from dataclasses import dataclass

from workers.errors import FaultClass

WORKER_LOST = "worker_lost"
"""Code of an attempt whose worker is gone."""


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
    """How often and how soon a job is tried again after a passing fault."""

    max_attempts: int = 5
    """Without getting further: each attempt that gets further than those before it is the first of a new count."""
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0

    def wait_seconds(self, attempts: int) -> float:
        """Seconds to wait after so many attempts without progress: doubled each time, up to the cap."""
        return float(min(self.first_wait_seconds * 2.0 ** min(max(attempts - 1, 0), 30), self.longest_wait_seconds))

    def allow_another(self, attempts: int) -> bool:
        """Whether a job that had so many attempts without progress may have one more."""
        return attempts < self.max_attempts
