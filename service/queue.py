"""The queue: sole writer of a job's status. Each change is one guarded UPDATE, told by an event in its transaction."""

import secrets
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service import backlog, endings, events, trials
from service.database import news
from service.database.clock import database_now
from service.database.news import Channel
from service.database.tables import Attempt, Job, JobLabel, new_id
from service.domain.job import LEASED, RETRIABLE, Status
from service.domain.lease import STAGE_DEADLINE, WORKER_LOST, Ending, Lease, RetryRules
from service.errors import Conflict, LeaseLost, NotFound
from service.plain import plain, storable
from service.remedies import past_deadline, with_relief
from service.reports import fold
from service.transitions import change, move, reread, words
from workers.contracts.events import Failed, NumberedEvent, Succeeded
from workers.contracts.recipe import Recipe

Kind = Literal["job", "search"]
"""What is queued: a recipe, or a search, whose `recipe` says what one of its trials occupies."""

_NODE_LETTERS = 255
_IS_IDLE = Job.status.notin_(words(LEASED))
_NOTHING: Mapping[Status, str] = MappingProxyType({})
_INSTEAD_OF_RETRY: Mapping[Status, str] = {
    Status.PAUSING: "resume it instead",
    Status.PAUSED: "resume it instead",
    Status.CANCELLING: "retry it once it is cancelled",
    Status.SUCCEEDED: "submit its recipe again to run it once more: what has not changed is found, not computed",
}


def enqueue(
    session: Session,
    *,
    recipe: Recipe,
    metadata: dict[str, Any],
    labels: dict[str, str],
    priority: int,
    kind: Kind = "job",
    slots: int = 1,
) -> Job:
    """Write a new job or search and its first event. `slots`: how many times the recipe's resources, at most."""
    job = Job(
        id=new_id(kind),
        kind=kind,
        slots=slots,
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
    return reread(session, job.id)


def lease(
    session: Session, job_id: str, *, owner: str, seconds: float, stage_seconds: float | None = None
) -> Lease | None:
    """Begin an attempt at a queued job, or None if it was taken, is just being changed, or must still wait.

    Args:
        stage_seconds: each of its stages may take so long, and so may its start; None: as long as it likes.
    """
    token = secrets.token_hex(16)
    # Another dispatcher that leases this very job is not waited for. SQLite has one writer, and knows no such clause.
    unlocked = select(Job.id).where(Job.id == job_id).with_for_update(skip_locked=True).scalar_subquery()
    begun = move(
        session,
        job_id,
        Status.RUNNING,
        Job.id == unlocked,
        Job.status == Status.QUEUED.value,
        Job.not_before <= database_now(),
        lease_owner=owner,
        lease_token=token,
        lease_expires_at=database_now() + seconds,
        attempts=Job.attempts + 1,
        started_at=func.coalesce(Job.started_at, database_now()),
        reason=None,
        stage_deadline_seconds=stage_seconds,
        stage_deadline_at=None if stage_seconds is None else database_now() + stage_seconds,
    )
    if not begun:
        return None
    job = reread(session, job_id)
    attempt = Attempt(id=new_id("att"), job_id=job_id, number=job.attempts)
    session.add(attempt)
    events.append(session, job, "attempt_started", {"number": attempt.number}, attempt.id)
    return _lease_of(job, attempt)


def renew(session: Session, held: Lease, *, seconds: float) -> None:
    """Prolong a lease that is still in force.

    Raises:
        LeaseLost: it is not.
    """
    _require(change(session, *_in_force(held), lease_expires_at=database_now() + seconds), held)


def adopt(session: Session, job_id: str, *, owner: str, seconds: float) -> Lease | None:
    """Take over an expired lease under a new token; the same attempt goes on. None if somebody was faster."""
    taken = change(
        session,
        Job.id == job_id,
        Job.status.in_(words(LEASED)),
        Job.lease_expires_at <= database_now(),
        lease_owner=owner,
        lease_token=secrets.token_hex(16),
        lease_expires_at=database_now() + seconds,
    )
    if not taken:
        return None
    job = reread(session, job_id)
    attempt = session.scalars(select(Attempt).where(Attempt.job_id == job_id, Attempt.number == job.attempts)).one()
    return _lease_of(job, attempt)


def note_adoption(session: Session, held: Lease) -> None:
    """Tell the job's followers that a new dispatcher goes on with the attempt."""
    events.append(session, _hold(session, held), "attempt_adopted", {"number": held.number}, held.attempt_id)


def release(session: Session, owner: str) -> None:
    """End the owner's leases at once, so that its successor need not wait for them to expire."""
    if change(session, Job.lease_owner == owner, Job.status.in_(words(LEASED)), lease_expires_at=database_now()):
        news.tell(session, Channel.QUEUE, owner)


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
    attempt.node = storable(node)[:_NODE_LETTERS] if node else attempt.node
    fresh = _contiguous(batch, attempt.last_sequence)
    if not fresh:
        return attempt.last_sequence
    fold(session, job, attempt.id, [numbered.event for numbered in fresh])
    attempt.last_sequence = fresh[-1].sequence
    session.flush()
    last = fresh[-1].event
    if isinstance(last, Succeeded):
        endings.conclude(session, job, attempt, Status.SUCCEEDED, "succeeded")
    elif isinstance(last, Failed):
        endings.settle(session, job, attempt, rules, "failed", plain(last))
    return attempt.last_sequence


def give_up(session: Session, held: Lease, rules: RetryRules, ending: Ending) -> None:
    """End an attempt that could not say itself how it ended; queue the job again if that may help.

    Raises:
        LeaseLost: the lease is no longer in force.
    """
    job = _hold(session, held)
    outcome = "lost" if ending.code == WORKER_LOST else "failed"
    message = ending.message if ending.fault != "out_of_memory" else with_relief(job, ending.message)
    verdict = {"fault": ending.fault, "code": ending.code, "message": storable(message)}
    endings.settle(session, job, session.get_one(Attempt, held.attempt_id), rules, outcome, verdict)


def overrun(session: Session, held: Lease, rules: RetryRules) -> bool:
    """End an attempt that is past its stage's deadline, by the database's clock; False if it no longer is.

    Raises:
        LeaseLost: the lease is no longer in force.
    """
    job = _hold(session, held)
    if not change(session, Job.id == job.id, Job.stage_deadline_at <= database_now(), lease_token=held.token):
        return False
    give_up(session, held, rules, Ending("deadline", STAGE_DEADLINE, past_deadline(job)))
    return True


def lose(session: Session, held: Lease, rules: RetryRules, *, message: str) -> None:
    """End an attempt whose worker is gone, and queue the job again while the rules allow it.

    Raises:
        LeaseLost: the lease is no longer in force.
    """
    give_up(session, held, rules, Ending("transient", WORKER_LOST, message))


def finish_stopping(session: Session, held: Lease) -> None:
    """Commit that the worker of a job that was told to cancel or to pause is no more.

    Raises:
        LeaseLost: the lease is no longer in force.
    """
    job = _hold(session, held)
    attempt = session.get_one(Attempt, held.attempt_id)
    if job.status == Status.CANCELLING.value:
        endings.conclude(session, job, attempt, Status.CANCELLED, "cancelled")
    elif job.status == Status.PAUSING.value:
        endings.park(session, job, attempt)
    else:
        endings.begin_anew(session, job, attempt)


def cancel(session: Session, job_id: str) -> Job:
    """Cancel what waits or is paused at once; tell what runs to stop. Once cancelling or cancelled, nothing changes.

    Raises:
        NotFound: there is no such job.
        Conflict: it has already ended otherwise.
    """
    job = _known(session, job_id)
    at_once = {"finished_at": database_now(), "reason": trials.how_far(session, job)}
    if move(session, job_id, Status.CANCELLED, _IS_IDLE, **at_once):
        events.append(session, reread(session, job_id), "job_cancelled", {})
    elif move(session, job_id, Status.CANCELLING):
        events.append(session, reread(session, job_id), "job_cancelling", {})
    return _wanted(session, job_id, {Status.CANCELLING, Status.CANCELLED}, "cancel")


def pause(session: Session, job_id: str) -> Job:
    """Pause what waits at once; tell what runs to stop, until it is resumed. Once pausing or paused, nothing changes.

    Raises:
        NotFound: there is no such job.
        Conflict: it has ended, or was told to cancel.
    """
    _known(session, job_id)
    if move(session, job_id, Status.PAUSED, _IS_IDLE, reason=None):
        events.append(session, reread(session, job_id), "job_paused", {})
    elif move(session, job_id, Status.PAUSING):
        events.append(session, reread(session, job_id), "job_pausing", {})
    return _wanted(session, job_id, {Status.PAUSING, Status.PAUSED}, "pause")


def resume(session: Session, job_id: str) -> Job:
    """Queue what is paused again, at its old place; let go on what is only about to stop. Otherwise nothing changes.

    Raises:
        NotFound: there is no such job.
        Conflict: it has ended, or was told to cancel.
    """
    _known(session, job_id)
    if move(session, job_id, Status.QUEUED, Job.status == Status.PAUSED.value) or move(
        session, job_id, Status.RUNNING, Job.status == Status.PAUSING.value
    ):
        events.append(session, reread(session, job_id), "job_resumed", {})
    return _wanted(session, job_id, {Status.QUEUED, Status.RUNNING}, "resume")


def retry(session: Session, job_id: str) -> Job:
    """Queue what failed or was cancelled again: the same job, at its old place, with a new count of attempts.

    What waits for its next attempt need not wait longer. What runs, or waits for its turn, stays as it is.

    Raises:
        NotFound: there is no such job.
        Conflict: it has succeeded, is paused, or is about to stop.
    """
    job = _known(session, job_id)
    at_once: dict[str, Any] = {"not_before": 0.0, "reason": None}
    before, waits = job.status, (Job.id == job_id, Job.status == Status.QUEUED.value, Job.not_before > database_now())
    anew = {**at_once, "finished_at": None, "error_code": None, "error_message": None, "error_fault": None}
    if job.kind == "job":  # its stages tell their files again; a search's trials that have ended do not
        anew["artifacts_removed_at"] = None
    if move(session, job_id, Status.QUEUED, Job.status.in_(words(RETRIABLE)), **anew):
        trials.reopen(session, job, failed_too=before == Status.FAILED.value)
        _note_retry(session, job_id)
    elif change(session, *waits, version=Job.version + 1, updated_at=database_now(), **at_once):
        _note_retry(session, job_id)
    return _wanted(session, job_id, {Status.QUEUED, Status.RUNNING}, "retry", _INSTEAD_OF_RETRY)


def explain(session: Session, job_id: str, reason: str | None) -> None:
    """Say why a queued job waits."""
    job = session.get(Job, job_id, populate_existing=True)
    if job is not None and job.reason != reason:
        differs = Job.reason.is_distinct_from(reason)  # another dispatcher may have said it meanwhile
        change(
            session, Job.id == job_id, Job.status == Status.QUEUED.value, differs,
            reason=reason, version=Job.version + 1, updated_at=database_now(),
        )  # fmt: skip
        news.tell(session, Channel.JOBS, job_id)


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
    _require(change(session, *_in_force(held), lease_token=held.token), held)
    return reread(session, held.job_id)


def _in_force(held: Lease) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == held.job_id, Job.lease_token == held.token, Job.lease_expires_at > database_now())


def _require(changed: int, held: Lease) -> None:
    if not changed:
        raise LeaseLost(f"the lease on {held.job_id} (attempt {held.attempt_id}) is no longer in force")


def _known(session: Session, job_id: str) -> Job:
    """The job, its row locked for this transaction: what is decided from it holds when it is written."""
    job = session.get(Job, job_id, populate_existing=True, with_for_update=True)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def _note_retry(session: Session, job_id: str) -> None:
    job = reread(session, job_id)
    # The attempts so far, from which none is counted any more: see `backlog.tries`.
    events.append(session, job, backlog.RETRIED, {"attempts": job.attempts})


def _wanted(
    session: Session, job_id: str, statuses: set[Status], verb: str, instead: Mapping[Status, str] = _NOTHING
) -> Job:
    """The job, in one of the statuses that somebody wants it in; `instead` says what to do where it is in another."""
    job = reread(session, job_id)
    if Status(job.status) not in statuses:
        by_itself = job.status in (Status.SUCCEEDED.value, Status.FAILED.value)
        standing = f"has already {job.status}" if by_itself else f"is {job.status}"
        remedy = instead.get(Status(job.status), f"there is nothing to {verb}")
        raise Conflict(f"{job.kind} {job_id} {standing}; {remedy}")
    return job


def _lease_of(job: Job, attempt: Attempt) -> Lease:
    return Lease(job.id, attempt.id, attempt.number, job.lease_token or "", attempt.last_sequence)
