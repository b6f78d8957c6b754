"""The history of each job: appended in the transaction of the change it tells of, numbered without gaps."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, literal, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from service.database import news
from service.database.clock import database_now
from service.database.news import Channel
from service.database.tables import Event, Job

_AT_ONCE = 1000
_OF_STATUS = "job_"
"""How the types of events begin that tell of a new status."""

Fact = tuple[str, dict[str, Any]]
"""An event's type and its own fields."""


def append(session: Session, job: Job, type: str, body: dict[str, Any], attempt_id: str | None = None) -> Event:
    """Add one event to the job's history."""
    return append_all(session, job, [(type, body)], attempt_id)[-1]


def append_all(session: Session, job: Job, facts: Sequence[Fact], attempt_id: str | None = None) -> list[Event]:
    """Add events in this order. The numbers are drawn by an UPDATE, whose row lock keeps them free of gaps."""
    session.flush()
    last, version = session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(last_event=Job.last_event + len(facts), version=Job.version + 1, updated_at=database_now())
        .returning(Job.last_event, Job.version)
        .execution_options(synchronize_session=False)
    ).one()
    set_committed_value(job, "last_event", last)
    set_committed_value(job, "version", version)
    first = last - len(facts) + 1
    added = [
        Event(job_id=job.id, number=first + place, type=type, attempt_id=attempt_id, body=body)
        for place, (type, body) in enumerate(facts)
    ]
    session.add_all(added)
    session.flush()
    news.tell(session, Channel.JOBS, job.id)
    if any(type.startswith(_OF_STATUS) for type, _ in facts):
        news.tell(session, Channel.QUEUE, job.id)
    return added


def listing(session: Session, job_id: str, *, after: int, limit: int) -> list[Event]:
    """The job's events whose number is greater than `after`, oldest first."""
    # A caller's number may be larger than any that the column can hold.
    beyond = Event.number > literal(after, BigInteger)
    wanted = select(Event).where(Event.job_id == job_id, beyond).order_by(Event.number).limit(limit)
    return list(session.scalars(wanted))


def versions(session: Session, job_ids: Iterable[str]) -> dict[str, int]:
    """The present version of each of these jobs that exists. Every event makes it grow, and every other change."""
    wanted = sorted(job_ids)
    found: dict[str, int] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        some = select(Job.id, Job.version).where(Job.id.in_(wanted[start : start + _AT_ONCE]))
        found |= {job_id: version for job_id, version in session.execute(some)}
    return found
