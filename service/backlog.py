"""What the dispatcher sees of the queue. Reads only: `service.queue` changes it."""

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.database.clock import database_now
from service.database.tables import Attempt, Job
from service.domain.job import LEASED, Status
from workers.contracts.recipe import Resources

_LEASED = sorted(status.value for status in LEASED)


def waiting(session: Session, limit: int) -> list[Job]:
    """Queued jobs whose time has come, in the order in which they shall run."""
    wanted = (
        select(Job)
        .where(Job.status == Status.QUEUED.value, Job.not_before <= database_now())
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(limit)
    )
    return list(session.scalars(wanted))


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


def booked(session: Session) -> list[Resources]:
    """What each attempt under way occupies, whoever leads it."""
    recipes = session.scalars(select(Job.recipe).where(Job.status.in_(_LEASED)))
    return [Resources.model_validate(recipe["resources"]) for recipe in recipes]


def cancelling(session: Session, owner: str) -> list[str]:
    """The owner's jobs that shall be stopped."""
    wanted = select(Job.id).where(Job.status == Status.CANCELLING.value, Job.lease_owner == owner)
    return list(session.scalars(wanted))


def ended_attempts(session: Session, attempt_ids: Iterable[str]) -> set[str]:
    """Those of these attempts that have ended. An unknown one has not."""
    ended = select(Attempt.id).where(Attempt.id.in_(list(attempt_ids)), Attempt.outcome.is_not(None))
    return set(session.scalars(ended))
