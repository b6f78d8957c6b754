"""The queue at a glance: how many stand where, what runs, what waits and why, what goes on when, and what is dead."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service.database.clock import database_now
from service.database.tables import Job
from service.domain.job import LEASED, Status
from service.entries import failing
from service.transitions import words


@dataclass(frozen=True)
class Toll:
    """Jobs and searches that ended with one error."""

    fault: str | None
    code: str
    count: int


@dataclass(frozen=True)
class Overview:
    """Jobs and searches alike. Lists are cut to what was asked for; `counts` and `tolls` are of all."""

    counts: dict[str, int]
    """By status, for every status."""
    running: Sequence[Job]
    """Those with an attempt under way, oldest first."""
    waiting: Sequence[Job]
    """Those whose time has come, in the order in which they run."""
    backing_off: Sequence[Job]
    """Those whose last attempt failed, soonest first."""
    dead: Sequence[Job]
    """Those that failed for good, latest first."""
    tolls: Sequence[Toll]
    """What they died of, the most frequent first."""


def overview(session: Session, *, limit: int, fault: str | None = None, code: str | None = None) -> Overview:
    """The queue now; of the dead those of a class of fault, or with an error's name.

    Args:
        limit: entries of each list, at most.
    """
    queued, due = Job.status == Status.QUEUED.value, Job.not_before <= database_now()
    failed = (Job.status == Status.FAILED.value, *failing(fault, code))

    def listed(*conditions: ColumnElement[bool], order: Sequence[ColumnElement[Any]]) -> Sequence[Job]:
        return session.scalars(select(Job).where(*conditions).order_by(*order, Job.id).limit(limit)).all()

    return Overview(
        counts=_counts(session),
        running=listed(Job.status.in_(words(LEASED)), order=[Job.started_at.asc()]),
        waiting=listed(queued, due, order=[Job.priority.desc(), Job.created_at.asc()]),
        backing_off=listed(queued, ~due, order=[Job.not_before.asc()]),
        dead=listed(*failed, order=[Job.finished_at.desc()]),
        tolls=_tolls(session, failed),
    )


def _counts(session: Session) -> dict[str, int]:
    rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
    found = {status: count for status, count in rows}
    return {status.value: found.get(status.value, 0) for status in Status}


def _tolls(session: Session, failed: Sequence[ColumnElement[bool]]) -> list[Toll]:
    count = func.count()
    wanted = select(Job.error_fault, Job.error_code, count).where(*failed).group_by(Job.error_fault, Job.error_code)
    rows = session.execute(wanted.order_by(count.desc(), Job.error_code))
    return [Toll(fault, code or "unknown", times) for fault, code, times in rows]
