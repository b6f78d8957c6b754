"""The history of each job: appended in the transaction of the change it tells of, numbered without gaps."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from service.database.clock import database_now
from service.database.tables import Event, Job

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
    return added


def listing(session: Session, job_id: str, *, after: int, limit: int) -> list[Event]:
    """The job's events whose number is greater than `after`, oldest first."""
    wanted = select(Event).where(Event.job_id == job_id, Event.number > after).order_by(Event.number).limit(limit)
    return list(session.scalars(wanted))


def newest_id(session: Session) -> int:
    """Id of the newest event of any job; 0 if there is none."""
    return session.scalar(select(func.max(Event.id))) or 0


def jobs_since(session: Session, event_id: int) -> set[str]:
    """The jobs that have events with a greater id than this one."""
    return set(session.scalars(select(Event.job_id).where(Event.id > event_id).distinct()))
