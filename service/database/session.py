"""The engine, and one transaction per request or tick."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

_WAIT_FOR_LOCK_MILLISECONDS = 10_000


class Database:
    """Opens transactions on one database. Safe to share between threads, not to carry over a fork."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._writer = self.engine.execution_options(writes=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction that sees one state and writes nothing."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            # What was read stays readable after the rollback, which ends the transaction without writing.
            session.expunge_all()
            session.rollback()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction, committed at the end, rolled back on any error. Durable once this returns."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            session.connection()  # begins now: SQLAlchemy would wait for the first statement
            yield session

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One writing transaction below the ORM, for migrations."""
        with self._writer.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _engine(url: str) -> Engine:
    engine = create_engine(url)
    if make_url(url).get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling begins late and upgrades read locks, which deadlocks: ours begins at once.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={_WAIT_FOR_LOCK_MILLISECONDS}",
        "journal_mode=WAL",
        "synchronous=FULL",  # in WAL mode only FULL makes a commit survive a power cut
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
