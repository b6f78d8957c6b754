"""Jobs and attempts as the wire shows them, made of their rows."""

from __future__ import annotations

from datetime import datetime
from typing import get_args

from api.schemas import Attempt, Fault, Job, instant, instant_or_none
from service.database import tables
from service.domain.lease import is_retryable
from workers.errors import FaultClass


def job_answer(row: tables.Job) -> Job:
    """A job's row as the wire shows it."""
    return Job(
        id=row.id,
        created_at=instant(row.created_at),
        updated_at=instant(row.updated_at),
        started_at=instant_or_none(row.started_at),
        finished_at=instant_or_none(row.finished_at),
        artifacts_removed_at=instant_or_none(row.artifacts_removed_at),
        status=row.status,
        stage=row.stage,
        reason=row.reason,
        next_attempt_at=next_attempt_at(row),
        error=fault(row),
        recipe=row.recipe,
        results=row.results or {},
        progress=row.progress,
        metadata=row.metadata_,
        labels=row.labels,
        priority=row.priority,
        attempts=row.attempts,
        last_event=row.last_event,
    )


def attempt_answer(row: tables.Attempt) -> Attempt:
    """An attempt's row as the wire shows it."""
    return Attempt(
        id=row.id,
        job_id=row.job_id,
        number=row.number,
        outcome=row.outcome,
        error=fault(row),
        started_at=instant(row.started_at),
        ended_at=instant_or_none(row.ended_at),
        node=row.node,
    )


def fault(row: tables.Job | tables.Attempt) -> Fault | None:
    """Why it failed, if it did."""
    if row.error_code is None:
        return None
    # Another version may know more classes.
    known: FaultClass | None = next((each for each in get_args(FaultClass) if each == row.error_fault), None)
    retryable = None if known is None else is_retryable(known)
    return Fault(code=row.error_code, message=row.error_message or "", fault=known, retryable=retryable)


def next_attempt_at(row: tables.Job) -> datetime | None:
    """When what is queued after a failed attempt may begin the next."""
    return instant(row.not_before) if row.status == "queued" and row.not_before else None
