"""The queue at a glance, as the wire shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from api.schemas import Answer, Fault, JobStatus

EXAMPLE_ENTRY: dict[str, Any] = {
    "id": "job_01jdm9q4y8zk3v7n5r2t6w0xbc",
    "object": "job",
    "status": "queued",
    "stage": None,
    "reason": "attempt 1 lost: its worker is gone (killed, out of memory or its node failed)",
    "error": None,
    "attempts": 1,
    "priority": 0,
    "labels": {"team": "compression"},
    "created_at": "2026-11-23T21:00:00Z",
    "started_at": "2026-11-23T21:00:02Z",
    "finished_at": None,
    "next_attempt_at": "2026-11-23T21:04:12Z",
    "stage_deadline_at": None,
}

EXAMPLE_QUEUE: dict[str, Any] = {
    "object": "queue",
    "counts": {
        "queued": 1,
        "running": 0,
        "pausing": 0,
        "paused": 0,
        "cancelling": 0,
        "cancelled": 2,
        "succeeded": 31,
        "failed": 0,
    },
    "running": [],
    "waiting": [],
    "backing_off": [EXAMPLE_ENTRY],
    "dead": [],
    "errors": [],
}


class QueueEntry(Answer):
    """A job or a search in the queue, without its recipe."""

    id: str
    object: Literal["job", "search"]
    status: JobStatus
    stage: str | None
    """Of a job: the stage now running."""
    reason: str | None
    """Why it waits, where there is more to say than that its turn has not come."""
    error: Fault | None
    """Why it failed."""
    attempts: int
    """Attempts begun so far."""
    priority: int
    labels: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    next_attempt_at: datetime | None
    """Of one whose last attempt failed: when the next may begin."""
    stage_deadline_at: datetime | None
    """Of one under way: when its stage is stopped if it has not ended by then."""


class ErrorCount(Answer):
    """How many died of one error."""

    fault: str | None
    code: str
    count: int


class QueueOverview(Answer):
    """What runs, waits, goes on and is dead, jobs and searches alike."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_QUEUE]})

    object: Literal["queue"] = "queue"
    counts: dict[JobStatus, int]
    """How many stand where, by status; of all, whatever the limit."""
    running: list[QueueEntry]
    """With an attempt under way, oldest first."""
    waiting: list[QueueEntry]
    """In the order in which they will run."""
    backing_off: list[QueueEntry]
    """Their last attempt failed for a passing reason; soonest first."""
    dead: list[QueueEntry]
    """They failed for good, latest first; `:retry` queues them again."""
    errors: list[ErrorCount]
    """What all of the dead died of, the most frequent first."""
