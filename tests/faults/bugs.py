"""Bugs that can be planted in the service's processes, one at a time: the checker must see each of them.

Each takes away, in a real process of the service or of the node, what a promise rests on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import literal
from sqlalchemy.orm import Session

from service import backlog, endings, idempotency, queue, transitions
from service.database.session import Database
from service.database.tables import Job
from service.dispatch.dispatcher import Dispatcher
from service.domain.job import Status
from tests.faults.planted import PART
from workers.contracts.events import NumberedEvent, Progress

ELSEWHERE = frozenset({"told_before_stored"})
"""Bugs of the worker, planted in `staged_pipeline`."""
_LATE_SECONDS = 0.1


def plant(name: str) -> None:
    """Plant a bug in this process.

    Raises:
        KeyError: there is no such bug.
    """
    if name not in ELSEWHERE:
        BUGS[name]()


def _no_fence() -> None:
    """Whoever once held a lease may write for ever."""
    queue._in_force = lambda held: (Job.id == held.job_id,)


def _local_clock() -> None:
    """Leases are timed by each process's own clock, and one is four seconds ahead."""
    ahead_seconds = 4.0 if os.environ[PART] == "dispatch-1" else 0.0

    def own_now() -> Any:
        return literal(time.time() + ahead_seconds)

    queue.database_now = own_now
    backlog.database_now = own_now


def _event_gap() -> None:
    """Every third step is left out."""
    whole = queue._contiguous

    def with_gaps(batch: Iterable[NumberedEvent], last: int) -> list[NumberedEvent]:
        fresh = whole(batch, last)
        return [each for each in fresh if not (isinstance(each.event, Progress) and each.event.step == 3)] or fresh

    queue._contiguous = with_gaps


def _event_twice() -> None:
    """A repeated event is taken as a new one."""
    once = queue._contiguous

    def twice(batch: Iterable[NumberedEvent], last: int) -> list[NumberedEvent]:
        fresh = once(batch, last)
        return [*fresh[:1], *fresh] if fresh and isinstance(fresh[0].event, Progress) else fresh

    queue._contiguous = twice


def _key_forgotten() -> None:
    """Answers are not kept under their key."""
    idempotency.remember = lambda session, key, body_sha256, answer: None


def _answered_too_soon() -> None:
    """The API answers before it has committed."""
    if os.environ[PART].startswith("api"):
        Database.write = _write_late


def _write_late(self: Database, work: Callable[[Session], Any]) -> Any:
    transaction = self._begun(self._writer)
    session = transaction.__enter__()
    result = work(session)
    session.flush()

    def commit() -> None:
        threading.Event().wait(_LATE_SECONDS)
        session.commit()
        transaction.__exit__(None, None, None)

    threading.Thread(target=commit).start()
    return result


def _expired_forgotten() -> None:
    """Nobody looks for jobs whose dispatcher is gone."""
    backlog.expired = lambda session, limit: []


def _worker_left() -> None:
    """Workers of attempts that have ended are left alone."""
    Dispatcher._reap = lambda self: None
    Dispatcher._drop = lambda self, held: self._held.pop(held.lease.attempt_id, None)


def _succeeds_again() -> None:
    """A job that has ended may be queued and end once more."""
    concluded = endings.conclude
    table = transitions.sources_of
    transitions.sources_of = lambda after: table(after) | ({Status.SUCCEEDED} if after is Status.QUEUED else set())

    def again(session: Session, job: Job, attempt: Any, to: Status, outcome: str, *rest: Any, **values: Any) -> None:
        concluded(session, job, attempt, to, outcome, *rest, **values)
        if to is Status.SUCCEEDED and attempt.number == 1:
            transitions.move(session, job.id, Status.QUEUED)

    endings.conclude = again


def _resume_lost() -> None:
    """What is paused is not queued again, though its owner is told so."""
    resumed = queue.resume

    def answered(session: Session, job_id: str) -> Job:
        with session.begin_nested() as nested:
            job = resumed(session, job_id)
            session.expunge(job)
            nested.rollback()
        return job

    queue.resume = answered


BUGS: dict[str, Callable[[], None]] = {
    "no_fence": _no_fence,
    "local_clock": _local_clock,
    "event_gap": _event_gap,
    "event_twice": _event_twice,
    "key_forgotten": _key_forgotten,
    "answered_too_soon": _answered_too_soon,
    "expired_forgotten": _expired_forgotten,
    "worker_left": _worker_left,
    "succeeds_again": _succeeds_again,
    "resume_lost": _resume_lost,
}
