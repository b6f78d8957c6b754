"""The one guarded UPDATE by which a job's status changes. Leaving the leased statuses ends its lease."""

from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, update
from sqlalchemy.orm import Session

from service import trials
from service.database.clock import database_now
from service.database.tables import Job
from service.domain.job import LEASED, Status, sources_of
from service.errors import Conflict

_NO_LEASE: dict[str, Any] = {
    "lease_owner": None,
    "lease_token": None,
    "lease_expires_at": None,
    "stage_deadline_seconds": None,
    "stage_deadline_at": None,
}


def move(session: Session, job_id: str, to: Status, *conditions: ColumnElement[bool], **values: Any) -> bool:
    """Change the status, if the table of legal transitions and the conditions allow it. A search's trials follow."""
    if to not in LEASED:
        values |= _NO_LEASE
    changed = change(
        session, Job.id == job_id, Job.status.in_(words(sources_of(to))), *conditions,
        status=to.value, version=Job.version + 1, updated_at=database_now(), **values,
    )  # fmt: skip
    if changed and to not in LEASED:
        trials.leave(session, job_id, to)
    return changed == 1


def require_move(session: Session, job: Job, to: Status, **values: Any) -> None:
    """Change the status.

    Raises:
        Conflict: the table does not allow it.
    """
    if not move(session, job.id, to, **values):
        raise Conflict(f"{job.kind} {job.id} is {job.status} and cannot become {to}")
    reread(session, job.id)


def change(session: Session, *conditions: ColumnElement[bool], **values: Any) -> int:
    """Rows changed. What the session holds of them is stale until read again."""
    statement = update(Job).where(*conditions).values(**values).execution_options(synchronize_session=False)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def reread(session: Session, job_id: str) -> Job:
    """The row as it is now."""
    return session.get_one(Job, job_id, populate_existing=True)


def words(statuses: Iterable[Status]) -> list[str]:
    """As the database has them."""
    return sorted(status.value for status in statuses)
