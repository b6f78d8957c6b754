"""What a job's status may be and become."""

from enum import StrEnum


class Status(StrEnum):
    """Where a job stands. The wire shows these words."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


LEGAL: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED}),
    # Back to queued: the attempt was lost or failed for a passing reason.
    Status.RUNNING: frozenset(
        {Status.QUEUED, Status.PAUSING, Status.CANCELLING, Status.SUCCEEDED, Status.FAILED},
    ),
    # An attempt may end by itself before the pause reaches it, and the pause may be taken back. Never back to queued:
    # an attempt that is lost meanwhile leaves the job paused.
    Status.PAUSING: frozenset(
        {Status.RUNNING, Status.PAUSED, Status.CANCELLING, Status.SUCCEEDED, Status.FAILED},
    ),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    # Whatever the attempt still reports, a job that was told "cancelling" ends cancelled.
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    # Ended, until somebody asks for another try.
    Status.CANCELLED: frozenset({Status.QUEUED}),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.SUCCEEDED: frozenset(),
}
"""From each status, those that may follow."""

FINAL: frozenset[Status] = frozenset({Status.CANCELLED, Status.SUCCEEDED, Status.FAILED})
"""A job in one of these has ended. Nothing but a caller who asks for another try takes it out of them."""

RETRIABLE: frozenset[Status] = frozenset(status for status in FINAL if LEGAL[status])
"""Ended, but not as it was meant to."""

LEASED: frozenset[Status] = frozenset({Status.RUNNING, Status.PAUSING, Status.CANCELLING})
"""A job in one of these has an attempt under way, hence a lease."""


def sources_of(after: Status) -> frozenset[Status]:
    """The statuses from which `after` may be reached."""
    return frozenset(before for before, following in LEGAL.items() if after in following)
