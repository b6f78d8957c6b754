"""Jobs as a caller sees them: submit, look up, list, cancel, pause, resume, retry."""

from typing import Any, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import datasets, entries, queue
from service.database.tables import Attempt, Job
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
    """One job; a search is none.

    Raises:
        NotFound: there is none of this id.
    """
    return entries.get(session, "job", job_id)


def listing(
    session: Session, *, limit: int, after: str | None = None, **filters: Unpack[entries.Filters]
) -> tuple[list[Job], bool]:
    """Jobs, newest first, and whether there are more.

    Raises:
        NotFound: `after` names no job.
    """
    return entries.listing(session, "job", limit=limit, after=after, **filters)


def cancel(session: Session, job_id: str) -> Job:
    """Cancel a job: at once if it waits, as soon as its attempt has stopped if it runs.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has already succeeded or failed.
    """
    return queue.cancel(session, get(session, job_id).id)


def pause(session: Session, job_id: str) -> Job:
    """Pause a job: at once if it waits, as soon as its attempt has stopped if it runs. Its checkpoints stay.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has ended, or was told to cancel.
    """
    return queue.pause(session, get(session, job_id).id)


def resume(session: Session, job_id: str) -> Job:
    """Queue a paused job again, at its old place; it goes on from its last checkpoint.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has ended, or was told to cancel.
    """
    return queue.resume(session, get(session, job_id).id)


def retry(session: Session, job_id: str) -> Job:
    """Queue a job again that failed or was cancelled; it finds the stages that it finished, and its checkpoints.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has succeeded, is paused or about to stop, or a data set of it was deleted.
    """
    job = get(session, job_id)
    datasets.require_kept(session, job)
    return queue.retry(session, job.id)


def attempts(session: Session, job_id: str) -> list[Attempt]:
    """The attempts at a job or a search, first to last.

    Raises:
        NotFound: there is neither of this id.
    """
    if session.get(Job, job_id) is None:
        raise NotFound(f"there is no job {job_id}")
    return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)))
