"""Jobs as a caller sees them: submit, look up, list, cancel."""

from typing import Any

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from service import datasets, queue
from service.database.tables import Attempt, Job, JobLabel
from service.errors import NotFound
from workers.contracts.recipe import Recipe


def submit(
    session: Session,
    *,
    recipe: Recipe,
    metadata: dict[str, Any],
    labels: dict[str, str],
    priority: int,
) -> Job:
    """Queue a job. The recipe's data sets have been `resolved`, and it has been `screened`: looking at folders takes
    time that no transaction should hold.

    Raises:
        InvalidRecipe: a data set was deleted meanwhile.
    """
    job = queue.enqueue(session, recipe=recipe, metadata=metadata, labels=labels, priority=priority)
    datasets.refer(session, job.id, recipe)
    return job


def get(session: Session, job_id: str) -> Job:
    """One job.

    Raises:
        NotFound: there is none of this id.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def listing(
    session: Session,
    *,
    limit: int,
    after: str | None = None,
    status: str | None = None,
    label: str | None = None,
    created_after: float | None = None,
) -> tuple[list[Job], bool]:
    """Jobs, newest first, and whether there are more. `label` is `key=value`, or `key` for any value.

    Raises:
        NotFound: `after` names no job.
    """
    conditions: list[ColumnElement[bool]] = []
    if after is not None:
        last = get(session, after)
        conditions.append(tuple_(Job.created_at, Job.id) < tuple_(last.created_at, last.id))
    if status is not None:
        conditions.append(Job.status == status)
    if label is not None:
        conditions.append(_has_label(label))
    if created_after is not None:
        conditions.append(Job.created_at > created_after)
    order = (Job.created_at.desc(), Job.id.desc())
    found = list(session.scalars(select(Job).where(*conditions).order_by(*order).limit(limit + 1)))
    return found[:limit], len(found) > limit


def cancel(session: Session, job_id: str) -> Job:
    """Cancel a job: at once if it waits, as soon as its attempt has stopped if it runs.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has already succeeded or failed.
    """
    return queue.cancel(session, job_id)


def attempts(session: Session, job_id: str) -> list[Attempt]:
    """The job's attempts, first to last.

    Raises:
        NotFound: there is no such job.
    """
    get(session, job_id)
    return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)))


def _has_label(label: str) -> ColumnElement[bool]:
    key, given, value = label.partition("=")
    found = select(JobLabel.job_id).where(JobLabel.job_id == Job.id, JobLabel.key == key)
    return (found.where(JobLabel.value == value) if given else found).exists()
