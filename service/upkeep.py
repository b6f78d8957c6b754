"""What keeps the store and the database small: the retention policy, then garbage; by one process at a time."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from sqlalchemy import CursorResult, or_, update

from service import collection, retention
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Duty
from service.errors import Conflict
from service.settings import Settings

logger = logging.getLogger(__name__)

UPKEEP = "upkeep"
LEASE_SECONDS = 600.0
"""Another may begin once whoever does it has been silent for so long. Two at once only cost time."""


class Store(collection.Sweepable, Protocol):
    """What upkeep needs of an artifact store."""

    def sweep(self) -> None:
        """Remove what killed processes left."""
        ...


def policy(settings: Settings) -> retention.Policy:
    """The deployment's retention policy."""
    return retention.Policy(settings.retention_artifact_days, settings.retention_row_days, settings.retention_keep_last)


def terms(settings: Settings) -> collection.Terms:
    """How long the deployment keeps what nothing refers to."""
    return collection.Terms(settings.garbage_grace_hours * 3600.0, settings.stage_result_days * 24 * 3600.0)


@contextmanager
def alone(
    database: Database,
    every_seconds: float = 0.0,
    stopped: threading.Event | None = None,
    *,
    notes_end: bool = True,
) -> Iterator[Callable[[], bool]]:
    """Do upkeep while nobody else does. What it gives says whether one may go on, and is to be asked often.

    Args:
        every_seconds: only if it was last done so long ago.
        stopped: once set, one may not go on, and it counts as not done.
        notes_end: it counts as done; not so a part of it that somebody asked for.

    Raises:
        Conflict: another is at it, or it was done lately.
    """
    owner = secrets.token_hex(16)
    free = or_(Duty.lease_expires_at.is_(None), Duty.lease_expires_at <= database_now())
    due = or_(Duty.finished_at.is_(None), Duty.finished_at <= database_now() - every_seconds)
    if not _changed(database, free, due, owner=owner, lease_expires_at=database_now() + LEASE_SECONDS):
        raise Conflict("the upkeep of this deployment is under way elsewhere; ask again when it is done")
    renewed_at = time.monotonic()

    def may_go_on() -> bool:
        nonlocal renewed_at
        if stopped is not None and stopped.is_set():
            return False
        if time.monotonic() - renewed_at < LEASE_SECONDS / 3:
            return True
        renewed_at = time.monotonic()
        return _changed(database, Duty.owner == owner, lease_expires_at=database_now() + LEASE_SECONDS)

    finished: dict[str, Any] = {}
    try:
        yield may_go_on
        if notes_end and (stopped is None or not stopped.is_set()):
            finished = {"finished_at": database_now()}
    finally:
        _changed(database, Duty.owner == owner, owner=None, lease_expires_at=None, **finished)


def run(database: Database, store: Store, settings: Settings, may_go_on: Callable[[], bool]) -> None:
    """Apply the policy, then remove garbage: what the first lets go of is marked by the second at once.

    Raises:
        workers.errors.Transient: the store does not answer.
    """
    removed = retention.apply(database, policy(settings), may_go_on)
    found = collection.collect(database, store, terms(settings), may_go_on=may_go_on)
    store.sweep()
    if removed or found.condemned or found.removed:
        logger.info(
            "upkeep: %s jobs and searches let go of files, %s unneeded files marked, %s removed (%s bytes)",
            len(removed),
            len(found.condemned),
            len(found.removed),
            sum(kept.size_bytes for kept in found.removed),
        )


class Keeper:
    """Does upkeep when it is due, in a thread of its own: leases must be renewed meanwhile."""

    def __init__(self, database: Database, store: Store, settings: Settings) -> None:
        self._database, self._store, self._settings = database, store, settings
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def begin_if_due(self) -> None:
        """Begin, unless it is under way, here or elsewhere, or was done lately. Returns at once."""
        if self._settings.upkeep_every_hours is None or (self._thread is not None and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End it at the next thing to remove, and wait for that."""
        self._stopped.set()
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        """Wait for what is under way, if anything is."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        every_seconds = (self._settings.upkeep_every_hours or 0.0) * 3600.0
        try:
            with alone(self._database, every_seconds, self._stopped) as may_go_on:
                run(self._database, self._store, self._settings, may_go_on)
        except Conflict:
            return
        except Exception:  # whatever it was, it is tried again the next time
            logger.exception("upkeep failed")


def _changed(database: Database, *conditions: Any, **values: Any) -> bool:
    with database.writing() as session:
        statement = update(Duty).where(Duty.name == UPKEEP, *conditions).values(**values)
        done = session.execute(statement.execution_options(synchronize_session=False))
        return cast("CursorResult[Any]", done).rowcount == 1
