"""One transaction per request or tick, on SQLite or PostgreSQL; what passes by itself is waited for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import stamina
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from service.database.address import address_of
from service.database.engine import engine_at

Result = TypeVar("Result")

PATIENCE_SECONDS = 5.0
"""So long a database that restarts is waited for, before callers are told that it does not answer."""
_TAKEN_BACK = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, a lock waited for too long: nothing of the transaction was done."""
_TAKEN_BACK_AT_MOST = 4
"""So often is a transaction begun that is taken back."""
_AWAY = ("08", "53", "57", "25P03")
"""No connection, too many of them, the server shuts down or starts; it ended a transaction that was idle too long."""


class Database:
    """Opens transactions on one database. Safe to share between threads, not to carry over a fork."""

    def __init__(self, url: str) -> None:
        self.address = address_of(url)
        self.url = self.address.render_as_string(hide_password=False)
        self.engine = engine_at(self.address)
        self.is_postgresql = self.engine.dialect.name == "postgresql"
        # On SQLite a transaction sees one state anyway.
        one_state = {"isolation_level": "REPEATABLE READ"} if self.is_postgresql else {}
        self._reader = self.engine.execution_options(**one_state)
        self._writer = self.engine.execution_options(writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction that sees one state and writes nothing."""
        with self._begun(self._reader) as session:
            yield session
            # What was read stays readable after the rollback, which ends the transaction without writing.
            session.expunge_all()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction, committed at the end, rolled back on any error. Durable once this returns."""
        with self._begun(self._writer) as session:
            yield session
            session.commit()

    def write(self, work: Callable[[Session], Result]) -> Result:
        """What `work` returns, done in one transaction, durably.

        Where the database took the transaction back, or went away before it was to be committed, all of `work` is done
        once more, for a while. Nothing but the session may be changed by it.

        Raises:
            sqlalchemy.exc.OperationalError: the database does not answer. It may have committed, if it went away just
                then: whoever asks again must be able to see that.
        """
        is_committing = False

        def was_away(error: Exception) -> bool:
            return not is_committing and _is_away(error)

        # Two rules, one in the other: waiting for a lock in vain takes longer than a database is waited for.
        for attempt in stamina.retry_context(_was_taken_back, attempts=_TAKEN_BACK_AT_MOST, timeout=None, wait_max=0.5):
            with attempt:
                for again in stamina.retry_context(was_away, attempts=None, timeout=PATIENCE_SECONDS, wait_max=0.5):
                    with again, self._begun(self._writer) as session:
                        is_committing = False
                        result = work(session)
                        session.flush()
                        is_committing = True
                        session.commit()
        return result

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One writing transaction below the ORM, for migrations."""
        with self._writer.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _begun(self, engine: Engine) -> Iterator[Session]:
        """A transaction that ends with a rollback, unless it was committed."""
        with self._connected(engine) as connection, Session(connection, expire_on_commit=False) as session:
            session.connection()  # begins now: SQLAlchemy would wait for the first statement
            yield session
            session.rollback()

    def _connected(self, engine: Engine) -> Connection:
        """A connection that works. Nothing has been done yet, so that trying again is safe."""
        if not self.is_postgresql:
            return engine.connect()
        for attempt in stamina.retry_context(OperationalError, attempts=None, timeout=PATIENCE_SECONDS, wait_max=0.5):
            with attempt:
                connection = engine.connect()
        return connection


def _was_taken_back(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and _state_of(error) in _TAKEN_BACK


def _is_away(error: Exception) -> bool:
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or _state_of(error).startswith(_AWAY)


def _state_of(error: DBAPIError) -> str:
    """PostgreSQL's five letters; SQLite has none."""
    return getattr(error.orig, "sqlstate", None) or ""
