"""How an attempt ends, and what becomes of its job then: tried again, paused, or over."""

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from service import backlog, events, trials
from service.database.clock import database_now
from service.database.tables import Attempt, Job
from service.domain.job import Status
from service.domain.lease import WORKER_LOST, RetryRules, is_retryable
from service.transitions import require_move
from workers.errors import FaultClass

_PAUSED = "paused"
"""Outcome of an attempt that a pause ended; it is no failed try."""
_RESUMED_EARLY = "it was told to go on just as it had been stopped for a pause; it goes on from its last checkpoint"


def settle(
    session: Session, job: Job, attempt: Attempt, rules: RetryRules, outcome: str, verdict: dict[str, Any]
) -> None:
    """After a failed or lost attempt: wait and try again, or end the job. `verdict` has `fault`, `code`, `message`."""
    fault: FaultClass = verdict["fault"]
    status, passing = Status(job.status), is_retryable(fault)
    if status is Status.PAUSING and passing and verdict["code"] == WORKER_LOST:
        # Most likely by the pause itself, whose dispatcher died before it could say so.
        park(session, job, attempt)
        return
    error = {"error_code": verdict["code"], "error_message": verdict["message"], "error_fault": fault}
    for name, value in error.items():
        setattr(attempt, name, value)
    session.flush()
    tries = backlog.tries_of(session, job, fault)
    if status is Status.CANCELLING:
        conclude(session, job, attempt, Status.CANCELLED, outcome)
    elif status is Status.PAUSING and passing:
        park(session, job, attempt, outcome)
    elif rules.allow_another(tries, fault):
        _requeue(session, job, attempt, rules.wait_seconds(tries), outcome, verdict)
    else:
        conclude(session, job, attempt, Status.FAILED, outcome, {**verdict, "stage": job.stage}, **error)


def conclude(
    session: Session,
    job: Job,
    attempt: Attempt,
    to: Status,
    outcome: str,
    body: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """End attempt and job. A job that was told to cancel ends cancelled, whatever its attempt came to."""
    if Status(job.status) is Status.CANCELLING:
        to, body, values = Status.CANCELLED, None, {}
    reason = trials.how_far(session, job) if to is Status.CANCELLED else None
    _end(session, attempt, outcome)
    require_move(session, job, to, finished_at=database_now(), stage=None, reason=reason, **values)
    events.append(session, job, f"job_{to}", body or {}, attempt.id)


def park(session: Session, job: Job, attempt: Attempt, outcome: str = _PAUSED) -> None:
    """End the attempt and leave the job paused, as it was told."""
    _end(session, attempt, outcome)
    require_move(session, job, Status.PAUSED, stage=None, progress=None, reason=None)
    events.append(session, job, "job_paused", {}, attempt.id)


def begin_anew(session: Session, job: Job, attempt: Attempt) -> None:
    """Queue a job at once that was resumed while its attempt was being stopped."""
    verdict = {"fault": "transient", "code": _PAUSED, "message": _RESUMED_EARLY}
    _requeue(session, job, attempt, 0.0, _PAUSED, verdict)


def _requeue(
    session: Session, job: Job, attempt: Attempt, wait_seconds: float, outcome: str, verdict: dict[str, Any]
) -> None:
    _end(session, attempt, outcome)
    require_move(
        session,
        job,
        Status.QUEUED,
        not_before=database_now() + wait_seconds,
        stage=None,
        progress=None,
        reason=f"attempt {attempt.number} {outcome}: {verdict['message']}",
    )
    body = {**verdict, "outcome": outcome, "retry_in_seconds": wait_seconds}
    events.append(session, job, "job_requeued", body, attempt.id)


def _end(session: Session, attempt: Attempt, outcome: str) -> None:
    attempt.outcome = outcome
    session.flush()
    session.execute(update(Attempt).where(Attempt.id == attempt.id).values(ended_at=database_now()))
