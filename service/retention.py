"""What is kept of jobs and searches that have ended, and for how long; what the policy removes is told beforehand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Select, and_, delete, false, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from service import events
from service.comparisons import STUDY_LABEL
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Artifact, Job, JobLabel
from service.domain.job import FINAL
from service.transitions import change, reread, words

KEEP_LABEL, TEAM_LABEL, SEARCH_LABEL = "keep", "team", "search"
"""Labels: `keep=true` pins; whose it is; the search whose trial a job was."""

HOLD_SECONDS = 3600.0
"""Files that somebody has asked for are left for so long: a download asks for one after the other."""

_DAY_SECONDS = 24 * 3600.0

Removal = Literal["files", "everything"]


@dataclass(frozen=True)
class Policy:
    """How long what has ended is kept. None: for ever."""

    artifact_days: float | None = None
    """Its files."""
    row_days: float | None = None
    """The job itself, with figures and events."""
    keep_last: int = 0
    """The newest so many of each team are kept, whatever their age."""


@dataclass(frozen=True)
class Due:
    """What the policy removes of one job or search."""

    id: str
    kind: str
    removes: Removal
    files: int
    size_bytes: int
    """Of the files, as the manifest has them; what others have too stays in the store."""
    finished_at: float


def due(session: Session, policy: Policy, only: str | None = None) -> list[Due]:
    """What the policy removes now, the longest ended first.

    Left alone is whatever has not ended, is pinned by `keep=true`, is among its team's newest, is being downloaded, or
    is referred to by what has not ended: a search by a job made of its trial and that job by the search, a study's job
    by another of the same study.
    """
    files = select(func.count(), func.coalesce(func.sum(Artifact.size_bytes), 0)).where(Artifact.job_id == Job.id)
    count, size = (files.with_only_columns(column).scalar_subquery() for column in files.selected_columns)
    everything = _older_than(policy.row_days)
    removable = or_(everything, and_(_older_than(policy.artifact_days), count > 0))
    conditions = [Job.status.in_(words(FINAL)), removable, *_unneeded(policy.keep_last)]
    if only is not None:
        conditions.append(Job.id == only)
    wanted = select(Job.id, Job.kind, everything, count, size, Job.finished_at).where(*conditions)
    return [
        Due(job_id, kind, "everything" if whole else "files", int(files_count), int(size_bytes), finished_at)
        for job_id, kind, whole, files_count, size_bytes, finished_at in session.execute(
            wanted.order_by(Job.finished_at, Job.id)
        )
    ]


def apply(database: Database, policy: Policy, may_go_on: Callable[[], bool] = lambda: True) -> list[Due]:
    """Remove what is due, each in a transaction of its own that looks again; what was removed.

    Args:
        may_go_on: asked before each.
    """
    with database.reading() as session:
        planned = due(session, policy)
    removed = []
    for each in planned:
        if not may_go_on():
            break
        with database.writing() as session:
            removed += _remove(session, policy, each.id)
    return removed


def hold(database: Database, policy: Policy, job_id: str) -> None:
    """Have the files of a job or a search left alone while somebody downloads them. Writes once in half an hour, and
    never where the policy removes nothing."""
    if policy.artifact_days is None and policy.row_days is None:
        return
    with database.reading() as session:
        soon = database_now() + HOLD_SECONDS / 2
        held = session.scalar(select(Job.id).where(Job.id == job_id, Job.held_until > soon))
    if held is None:
        with database.writing() as session:
            change(session, Job.id == job_id, held_until=database_now() + HOLD_SECONDS)


def _remove(session: Session, policy: Policy, job_id: str) -> list[Due]:
    """Remove what is due of one, if it still is."""
    # Its row is locked first, where writers do not wait for each other anyway: nobody retries or holds it meanwhile.
    session.execute(update(Job).where(Job.id == job_id).values(version=Job.version))
    still = due(session, policy, job_id)
    for each in still:
        if each.removes == "everything":
            session.execute(delete(Job).where(Job.id == job_id))
            continue
        session.execute(delete(Artifact).where(Artifact.job_id == job_id))
        change(session, Job.id == job_id, artifacts_removed_at=database_now())
        told = {"files": each.files, "bytes": each.size_bytes, "after_days": policy.artifact_days}
        events.append(session, reread(session, job_id), "artifacts_removed", told)
    return still


def _older_than(days: float | None) -> ColumnElement[bool]:
    return false() if days is None else Job.finished_at <= database_now() - days * _DAY_SECONDS


def _unneeded(keep_last: int) -> list[ColumnElement[bool]]:
    unheld = or_(Job.held_until.is_(None), Job.held_until <= database_now())
    pinned = select(JobLabel.job_id).where(JobLabel.key == KEEP_LABEL, JobLabel.value == "true")
    newest = [Job.id.notin_(_newest_of_each_team(keep_last))] if keep_last else []
    return [unheld, Job.id.notin_(pinned), *(Job.id.notin_(needed) for needed in _needed()), *newest]


def _needed() -> list[Select[str]]:
    """Ids of what is referred to by what has not ended."""
    label, under_way = aliased(JobLabel), aliased(Job)
    of_what_goes_on = under_way.status.notin_(words(FINAL))

    def labels(key: str) -> Select[str]:
        """Values of a label on what has not ended."""
        named = select(label.value).join(under_way, label.job_id == under_way.id)
        return named.where(label.key == key, of_what_goes_on)

    promoted = select(label.job_id).join(under_way, label.value == under_way.id)
    of_study = select(JobLabel.job_id).where(JobLabel.key == STUDY_LABEL, JobLabel.value.in_(labels(STUDY_LABEL)))
    return [labels(SEARCH_LABEL), promoted.where(label.key == SEARCH_LABEL, of_what_goes_on), of_study]


def _newest_of_each_team(keep_last: int) -> Select[str]:
    """Of those that have ended; what has no team is one."""
    team = (JobLabel.job_id == Job.id) & (JobLabel.key == TEAM_LABEL)
    newest_first = (Job.finished_at.desc(), Job.id.desc())
    place = func.row_number().over(partition_by=func.coalesce(JobLabel.value, ""), order_by=newest_first)
    ended = (
        select(Job.id, place.label("place")).outerjoin(JobLabel, team).where(Job.status.in_(words(FINAL))).subquery()
    )
    return select(ended.c.id).where(ended.c.place <= keep_last)
