"""Waits for news of the database: PostgreSQL tells what is committed (LISTEN, NOTIFY), SQLite is looked at."""

from __future__ import annotations

import logging
import selectors
import socket
import time
from contextlib import ExitStack
from enum import StrEnum
from typing import Any

import psycopg
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.database.session import Database

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 5.0
"""Time between two tries to listen."""


class Channel(StrEnum):
    """What there may be news of."""

    JOBS = "dress_jobs"
    """A job or a search has changed; its id is told."""
    QUEUE = "dress_queue"
    """Its status has: there may be something to start or to stop."""


def tell(session: Session, channel: Channel, subject: str) -> None:
    """Tell whoever listens, once this transaction is committed. News repeated in a transaction are told once."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_notify(channel.value, subject)))


class Listener:
    """Waits for news of one channel. Belongs to one thread at a time; `close` may come from another."""

    def __init__(self, database: Database, channel: Channel, poll_seconds: float) -> None:
        """`poll_seconds`: how long to wait, at most, where nobody tells."""
        self._database = database
        self._channel = channel
        self._poll_seconds = poll_seconds
        self._connection: Connection | None = None
        self._try_at = 0.0
        self._bell, self._end = socket.socketpair()

    @property
    def is_told(self) -> bool:
        """Whether news come by themselves at present. If not, whoever needs them has to look."""
        return self._connection is not None

    def wait(self, seconds: float) -> set[str] | None:
        """The ids that were told of since the last call, as soon as there are some; none after so many seconds.

        None: nobody tells, or some may have been missed. Look for yourself.
        """
        if self._connection is None and self._begin():
            return None  # what was committed before this moment was told to nobody
        if self._connection is None:
            _until_readable(min(seconds, self._poll_seconds), self._end)
            return None
        listening = self._connection.connection.driver_connection
        assert isinstance(listening, psycopg.Connection)  # noqa: S101  the engine's driver
        try:
            _until_readable(seconds, self._end, listening)
            return {told.payload for told in listening.notifies(timeout=0)}
        except psycopg.Error as error:
            log.warning("news of the database cease; it is looked at until they come again: %s", error)
            self.rest()
            return None

    def rest(self) -> None:
        """Let go of the connection until the next `wait`: news that nobody reads pile up in the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # the pool would hand it to others, and it would go on listening
            connection.close()

    def close(self) -> None:
        """End every wait, now and later."""
        self._bell.close()

    def _begin(self) -> bool:
        """Whether news are told from now on."""
        if not self._database.is_postgresql or time.monotonic() < self._try_at:
            return False
        self._try_at = time.monotonic() + _AGAIN_SECONDS
        try:
            with ExitStack() as on_failure:
                connection = on_failure.enter_context(self._database.engine.connect())
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql(f"LISTEN {self._channel.value}")
                on_failure.pop_all()
        except SQLAlchemyError as error:
            log.warning("the database tells no news; it is looked at: %s", error)
            return False
        self._connection = connection
        return True


def _until_readable(seconds: float, *sources: socket.socket | psycopg.Connection[Any]) -> None:
    """Wait for one of them, or for the time to be over. Not `select.select`, which ends at the 1024th open file."""
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        selector.select(max(0.0, seconds))
