"""What the dispatcher sees of the queue. Reads only: `service.queue` changes it."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from service.database.clock import database_now
from service.database.tables import Attempt, Event, Job, Search
from service.domain.job import LEASED, Status
from service.domain.lease import RETRIED_BY
from workers.contracts.recipe import Resources
from workers.errors import FaultClass

_LEASED = sorted(status.value for status in LEASED)
_STOPPING = sorted(status.value for status in (Status.CANCELLING, Status.PAUSING))
RETRIED = "job_retried"
"""Event of a job that somebody asked to have tried again; `attempts` were begun before."""

_MILESTONES = {
    "stage_finished": ("stage", "subject"),
    "checkpoint_saved": ("stage", "step"),
    "trial_progressed": ("trial", "stage"),
    "trial_reported": ("trial", "rung"),
    "trial_finished": ("trial",),
}
"""Events that tell how far an attempt got, and which of their fields say where that is."""


def waiting(session: Session, limit: int, after: Job | None = None) -> list[Job]:
    """Queued jobs whose time has come, in the order in which they shall run; those that come `after` a job."""
    wanted = (
        select(Job)
        .where(Job.status == Status.QUEUED.value, Job.not_before <= database_now(), *_following(after))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(limit)
    )
    return list(session.scalars(wanted))


def page(session: Session, limit: int, after: Job | None = None) -> tuple[list[Job], dict[str, dict[str, Any]]]:
    """The next waiting jobs, and what is asked of those that are searches, by id."""
    jobs = waiting(session, limit, after)
    return jobs, specs(session, jobs)


def expired(session: Session, limit: int) -> list[tuple[str, str]]:
    """Jobs under way whose lease nobody renewed: job id and the id of the attempt that may still run."""
    wanted = (
        select(Job.id, Attempt.id)
        .join(Attempt, (Attempt.job_id == Job.id) & (Attempt.number == Job.attempts))
        .where(Job.status.in_(_LEASED), Job.lease_expires_at <= database_now())
        .order_by(Job.lease_expires_at)
        .limit(limit)
    )
    return [(job_id, attempt_id) for job_id, attempt_id in session.execute(wanted)]


def leased(session: Session) -> dict[str, tuple[Resources, int]]:
    """What each job under way occupies, whoever leads it, and how many times at most; by its id."""
    wanted = select(Job.id, Job.recipe, Job.slots).where(Job.status.in_(_LEASED))
    return {job_id: (resources(recipe), slots) for job_id, recipe, slots in session.execute(wanted)}


def specs(session: Session, jobs: Iterable[Job]) -> dict[str, dict[str, Any]]:
    """Of those that are searches, what is asked of them, by id."""
    ids = [job.id for job in jobs if job.kind == "search"]
    wanted = select(Search.id, Search.spec).where(Search.id.in_(ids))
    return {search_id: spec for search_id, spec in session.execute(wanted)} if ids else {}


def resources(recipe: dict[str, Any]) -> Resources:
    """What a stored recipe asks for, unchecked: a newer version may have written fields that this one does not know,
    and one such job must not hide all others."""
    plain = recipe.get("resources")
    hours = plain.get("stage_deadline_hours") if isinstance(plain, dict) else None
    return Resources.model_construct(
        cpus=_amount(plain, "cpus", 1),
        gpus=_amount(plain, "gpus", 0),
        stage_deadline_hours=hours if isinstance(hours, int | float) else None,
    )


def tries(session: Session, job: Job) -> int:
    """Attempts since the last one that got further than all before it, that one included, but for those that a pause
    ended, and those before somebody asked for another try.

    A stage finished, a checkpoint saved, a rung or an end that a search's trial came to, each for the first time, is
    further. Doing the same again is not: a job whose worker dies again and again at one place ends, however much its
    attempts report.
    """
    fields = sorted({name for names in _MILESTONES.values() for name in names})
    told = (
        select(Attempt.number, Event.type, *(Event.body[name].as_string() for name in fields))
        .join(Attempt, Event.attempt_id == Attempt.id)
        .where(Event.job_id == job.id, Event.type.in_(_MILESTONES))
        .order_by(Event.number)
    )
    seen: set[tuple[Any, ...]] = set()
    furthest = 1 + attempts_before_retry(session, job)
    for number, type, *values in session.execute(told):
        body = dict(zip(fields, values, strict=True))
        milestone = (type, *(body[name] for name in _MILESTONES[type]))
        if milestone not in seen:
            seen.add(milestone)
            furthest = max(furthest, number)
    of_job = (Attempt.job_id == job.id, Attempt.number >= furthest)
    counted = select(func.count()).where(*of_job, func.coalesce(Attempt.outcome, "") != "paused")
    return session.scalar(counted) or 0


def tries_of(session: Session, job: Job, fault: FaultClass) -> int:
    """The attempts that count where a job ended with this class of fault; that attempt is one of them."""
    if RETRIED_BY[fault] != "of_this_class":
        return tries(session, job)
    alike = (Attempt.error_fault == fault, Attempt.number > attempts_before_retry(session, job))
    return session.scalar(select(func.count()).where(Attempt.job_id == job.id, *alike)) or 0


def attempts_before_retry(session: Session, job: Job) -> int:
    """Attempts that a caller's wish to have it tried again has made up for."""
    before = select(func.max(Event.body["attempts"].as_integer()))
    return session.scalar(before.where(Event.job_id == job.id, Event.type == RETRIED)) or 0


def stopping(session: Session, owner: str) -> list[str]:
    """The owner's jobs whose worker shall be stopped."""
    wanted = select(Job.id).where(Job.status.in_(_STOPPING), Job.lease_owner == owner)
    return list(session.scalars(wanted))


def overdue(session: Session, owner: str) -> list[str]:
    """The owner's jobs of which a stage has not ended by its deadline."""
    late = (Job.status == Status.RUNNING.value, Job.stage_deadline_at <= database_now())
    return list(session.scalars(select(Job.id).where(Job.lease_owner == owner, *late)))


def ended_attempts(session: Session, attempt_ids: Iterable[str]) -> set[str]:
    """Those of these attempts that have ended. An unknown one has not."""
    ended = select(Attempt.id).where(Attempt.id.in_(list(attempt_ids)), Attempt.outcome.is_not(None))
    return set(session.scalars(ended))


def _following(last: Job | None) -> tuple[ColumnElement[bool], ...]:
    """Past a job in the order of the queue."""
    if last is None:
        return ()
    younger = tuple_(Job.created_at, Job.id) > tuple_(last.created_at, last.id)
    return (or_(Job.priority < last.priority, and_(Job.priority == last.priority, younger)),)


def _amount(plain: Any, name: str, default: int) -> int:
    found = plain.get(name) if isinstance(plain, dict) else None
    return found if isinstance(found, int) else default
