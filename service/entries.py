"""What stands in the queue of one kind, jobs or searches: looked up, and listed newest first."""

from typing import TypedDict, Unpack

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from service.database.tables import Job, JobLabel
from service.errors import NotFound
from service.queue import Kind


class Filters(TypedDict, total=False):
    """Which of a kind are listed; what is left out or none chooses all."""

    status: str | None
    label: str | None
    """`key=value`, or `key` for any value."""
    created_after: float | None
    """Seconds since 1970."""
    fault: str | None
    """Class of the error with which they ended."""
    code: str | None
    """Its name."""


def get(session: Session, kind: Kind, entry_id: str) -> Job:
    """One job or search.

    Raises:
        NotFound: there is none of this kind and id.
    """
    found = session.get(Job, entry_id)
    if found is None or found.kind != kind:
        raise NotFound(f"there is no {kind} {entry_id}")
    return found


def listing(
    session: Session,
    kind: Kind,
    *,
    limit: int,
    after: str | None = None,
    **filters: Unpack[Filters],
) -> tuple[list[Job], bool]:
    """Those of a kind, newest first, and whether there are more.

    Raises:
        NotFound: `after` names none.
    """
    conditions: list[ColumnElement[bool]] = [Job.kind == kind]
    if after is not None:
        last = get(session, kind, after)
        conditions.append(tuple_(Job.created_at, Job.id) < tuple_(last.created_at, last.id))
    if (status := filters.get("status")) is not None:
        conditions.append(Job.status == status)
    if (label := filters.get("label")) is not None:
        conditions.append(_has_label(label))
    if (created_after := filters.get("created_after")) is not None:
        conditions.append(Job.created_at > created_after)
    conditions += failing(filters.get("fault"), filters.get("code"))
    order = (Job.created_at.desc(), Job.id.desc())
    found = list(session.scalars(select(Job).where(*conditions).order_by(*order).limit(limit + 1)))
    return found[:limit], len(found) > limit


def failing(fault: str | None, code: str | None) -> list[ColumnElement[bool]]:
    """Of an error of this class and name, as far as they are given."""
    given = ((Job.error_fault, fault), (Job.error_code, code))
    return [column == value for column, value in given if value is not None]


def _has_label(label: str) -> ColumnElement[bool]:
    key, given, value = label.partition("=")
    found = select(JobLabel.job_id).where(JobLabel.job_id == Job.id, JobLabel.key == key)
    return (found.where(JobLabel.value == value) if given else found).exists()
