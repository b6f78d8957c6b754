"""The queue: sole writer of a job's status. Each change is one guarded UPDATE, told by an event in its transaction."""

import secrets
from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, func, select, update
from sqlalchemy.orm import Session

from service import backlog, events
from service.database.clock import database_now
from service.database.tables import Attempt, Job, JobLabel, new_id
from service.domain.job import LEASED, Status, sources_of
from service.domain.lease import Ending, Lease, RetryRules
from service.errors import Conflict, LeaseLost, NotFound
from service.reports import fold
from workers.contracts.events import Failed, NumberedEvent, Succeeded
from workers.contracts.recipe import Recipe

WORKER_LOST = "worker_lost"
"""Code of an attempt whose worker is gone."""

_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_token": None, "lease_expires_at": None}


def enqueue(
    session: Session, *, recipe: Recipe, metadata: dict[str, Any], labels: dict[str, str], priority: int
) -> Job:
    """Write a new job and its first event."""
    job = Job(
        id=new_id("job"),
        status=Status.QUEUED.value,
        recipe=recipe.model_dump(mode="json"),
        metadata_=metadata,
        labels=labels,
        priority=priority,
    )
    session.add(job)
    session.flush()
    session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in labels.items())
    events.append(session, job, "job_queued", {"priority": priority})
    return _reread(session, job.id)


def lease(session: Session, job_id: str, *, owner: str, seconds: float) -> Lease | None:
    """Begin an attempt at a queued job, or None if it was taken, cancelled or must still wait."""
    token = secrets.token_hex(16)
    begun = _move(
        session,
        job_id,
        Status.RUNNING,
        Job.status == Status.QUEUED.value,
        Job.not_before <= database_now(),
        lease_owner=owner,
        lease_token=token,
        lease_expires_at=database_now() + seconds,
        attempts=Job.attempts + 1,
        started_at=func.coalesce(Job.started_at, database_now()),
        reason=None,
    )
    if not begun:
        return None
    job = _reread(session, job_id)
    attempt = Attempt(id=new_id("att"), job_id=job_id, number=job.attempts)
    session.add(attempt)
    events.append(session, job, "attempt_started", {"number": attempt.number}, attempt.id)
    return _lease_of(job, attempt)


def renew(session: Session, held: Lease, *, seconds: float) -> None:
    """Prolong a lease that is still in force.

    Raises:
        LeaseLost: it is not.
    """
    _require(_update(session, *_in_force(held), lease_expires_at=database_now() + seconds), held)


def adopt(session: Session, job_id: str, *, owner: str, seconds: float) -> Lease | None:
    """Take over an expired lease under a new token; the same attempt goes on. None if somebody was faster."""
    taken = _update(
        session,
        Job.id == job_id,
        Job.status.in_(_words(LEASED)),
        Job.lease_expires_at <= database_now(),
        lease_owner=owner,
        lease_token=secrets.token_hex(16),
        lease_expires_at=database_now() + seconds,
    )
    if not taken:
        return None
    job = _reread(session, job_id)
    attempt = session.scalars(select(Attempt).where(Attempt.job_id == job_id, Attempt.number == job.attempts)).one()
    return _lease_of(job, attempt)


def note_adoption(session: Session, held: Lease) -> None:
    """Tell the job's followers that a new dispatcher goes on with the attempt."""
    events.append(session, _hold(session, held), "attempt_adopted", {"number": held.number}, held.attempt_id)


def release(session: Session, owner: str) -> None:
    """End the owner's leases at once, so that its successor need not wait for them to expire."""
    _update(session, Job.lease_owner == owner, Job.status.in_(_words(LEASED)), lease_expires_at=database_now())


def apply(
    session: Session, held: Lease, batch: Iterable[NumberedEvent], rules: RetryRules, node: str | None = None
) -> int:
    """Commit what the attempt reports, and the job's end with its last event.

    Events already committed are passed over; from a gap on nothing is taken. Returns the last sequence committed.

    Raises:
        LeaseLost: the lease is no longer in force; nothing is written.
    """
    job = _hold(session, held)
    attempt = session.get_one(Attempt, held.attempt_id, populate_existing=True)
    attempt.node = node or attempt.node
    fresh = _contiguous(batch, attempt.last_sequence)
    if not fresh:
        return attempt.last_sequence
    fold(session, job, attempt.id, [numbered.event for numbered in fresh])
    attempt.last_sequence = fresh[-1].sequence
    session.flush()
    last = fresh[-1].event
    if isinstance(last, Succeeded):
        _conclude(session, job, attempt, Status.SUCCEEDED, "succeeded")
    elif isinstance(last, Failed):
        verdict = last.model_dump(mode="json", exclude={"type"})
        _settle(session, job, attempt, rules, "failed", verdict)
    return attempt.last_sequence


def give_up(session: Session, held: Lease, rules: RetryRules, ending: Ending) -> None:
    """End an attempt that could not say itself how it ended; queue the job again if that may help.

    Raises:
        LeaseLost: the lease is no longer in force.
    """
    job = _hold(session, held)
    outcome = "lost" if ending.code == WORKER_LOST else "failed"
    verdict = {"fault": ending.fault, "code": ending.code, "message": ending.message}
    _settle(session, job, session.get_one(Attempt, held.attempt_id), rules, outcome, verdict)


def lose(session: Session, held: Lease, rules: RetryRules, *, message: str) -> None:
    """End an attempt whose worker is gone, and queue the job again while the rules allow it.

    Raises:
        LeaseLost: the lease is no longer in force.
    """
    give_up(session, held, rules, Ending("transient", WORKER_LOST, message))


def finish_cancelling(session: Session, held: Lease) -> None:
    """Commit that a job told to stop has stopped.

    Raises:
        LeaseLost: the lease is no longer in force.
    """
    job = _hold(session, held)
    _conclude(session, job, session.get_one(Attempt, held.attempt_id), Status.CANCELLED, "cancelled")


def cancel(session: Session, job_id: str) -> Job:
    """Cancel what waits at once; tell what runs to stop. Once cancelling or cancelled, nothing changes.

    Raises:
        NotFound: there is no such job.
        Conflict: it has already ended otherwise.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    if _move(session, job_id, Status.CANCELLED, Job.status.notin_(_words(LEASED)), finished_at=database_now()):
        events.append(session, _reread(session, job_id), "job_cancelled", {})
    elif _move(session, job_id, Status.CANCELLING):
        events.append(session, _reread(session, job_id), "job_cancelling", {})
    job = _reread(session, job_id)
    if job.status not in (Status.CANCELLING.value, Status.CANCELLED.value):
        raise Conflict(f"job {job_id} has already {job.status}; there is nothing to cancel")
    return job


def explain(session: Session, job_id: str, reason: str | None) -> None:
    """Say why a queued job waits."""
    job = session.get(Job, job_id, populate_existing=True)
    if job is not None and job.reason != reason:
        _update(
            session, Job.id == job_id, Job.status == Status.QUEUED.value,
            reason=reason, version=Job.version + 1, updated_at=database_now(),
        )  # fmt: skip


def _settle(
    session: Session,
    job: Job,
    attempt: Attempt,
    rules: RetryRules,
    outcome: str,
    verdict: dict[str, Any],
) -> None:
    """After a failed or lost attempt: wait and try again, or end the job. `verdict` has `fault`, `code`, `message`."""
    attempt.error_code, attempt.error_message = verdict["code"], verdict["message"]
    tries = backlog.tries(session, job)
    if Status(job.status) is Status.CANCELLING:
        _conclude(session, job, attempt, Status.CANCELLED, outcome)
    elif verdict["fault"] == "transient" and rules.allow_another(tries):
        _requeue(session, job, attempt, rules.wait_seconds(tries), outcome, verdict)
    else:
        error = {"error_code": verdict["code"], "error_message": verdict["message"]}
        _conclude(session, job, attempt, Status.FAILED, outcome, {**verdict, "stage": job.stage}, **error)


def _requeue(
    session: Session, job: Job, attempt: Attempt, wait_seconds: float, outcome: str, verdict: dict[str, Any]
) -> None:
    _end_attempt(session, attempt, outcome)
    _require_move(
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


def _conclude(
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
    _end_attempt(session, attempt, outcome)
    _require_move(session, job, to, finished_at=database_now(), stage=None, reason=None, **values)
    events.append(session, job, f"job_{to}", body or {}, attempt.id)


def _end_attempt(session: Session, attempt: Attempt, outcome: str) -> None:
    attempt.outcome = outcome
    session.flush()
    session.execute(update(Attempt).where(Attempt.id == attempt.id).values(ended_at=database_now()))


def _contiguous(batch: Iterable[NumberedEvent], last: int) -> list[NumberedEvent]:
    """The new events that follow the last committed one without a gap."""
    fresh: list[NumberedEvent] = []
    for numbered in batch:
        if numbered.sequence == last + len(fresh) + 1:
            fresh.append(numbered)
        elif numbered.sequence > last + len(fresh) + 1:
            break
    return fresh


def _hold(session: Session, held: Lease) -> Job:
    """The job, its row locked for this transaction, if the lease is in force."""
    _require(_update(session, *_in_force(held), lease_token=held.token), held)
    return _reread(session, held.job_id)


def _in_force(held: Lease) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == held.job_id, Job.lease_token == held.token, Job.lease_expires_at > database_now())


def _require(changed: int, held: Lease) -> None:
    if not changed:
        raise LeaseLost(f"the lease on {held.job_id} (attempt {held.attempt_id}) is no longer in force")


def _move(session: Session, job_id: str, to: Status, *conditions: ColumnElement[bool], **values: Any) -> bool:
    """Change the status, if the table of legal transitions and the conditions allow it. Leaving the leased statuses
    ends the lease."""
    if to not in LEASED:
        values |= _NO_LEASE
    legal = Job.status.in_(_words(sources_of(to)))
    changed = _update(
        session, Job.id == job_id, legal, *conditions,
        status=to.value, version=Job.version + 1, updated_at=database_now(), **values,
    )  # fmt: skip
    return changed == 1


def _require_move(session: Session, job: Job, to: Status, **values: Any) -> None:
    if not _move(session, job.id, to, **values):
        raise Conflict(f"job {job.id} is {job.status} and cannot become {to}")
    _reread(session, job.id)


def _update(session: Session, *conditions: ColumnElement[bool], **values: Any) -> int:
    """Rows changed. What the session holds of them is stale until read again."""
    statement = update(Job).where(*conditions).values(**values).execution_options(synchronize_session=False)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def _reread(session: Session, job_id: str) -> Job:
    return session.get_one(Job, job_id, populate_existing=True)


def _lease_of(job: Job, attempt: Attempt) -> Lease:
    return Lease(job.id, attempt.id, attempt.number, job.lease_token or "", attempt.last_sequence)


def _words(statuses: Iterable[Status]) -> list[str]:
    return sorted(status.value for status in statuses)
