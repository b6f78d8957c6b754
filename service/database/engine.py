"""Makes engines: what either database needs so that a commit is durable and nobody waits for ever."""

import sqlite3
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event

from service.database.address import is_sqlite

LOCK_SECONDS = 10
"""Longest wait for a lock that another transaction holds."""
_IDLE_SECONDS = 30
"""A transaction whose process says nothing for so long, because it was stopped or cut off, loses its locks."""
_POOL: dict[str, Any] = {
    "pool_size": 5,
    "max_overflow": 15,
    "pool_timeout": 10.0,
    "pool_pre_ping": True,  # connections that a restart of the database broke are replaced before they are used
}
_NETWORK = {
    # A connection that is only half open is found dead in half a minute, not in hours.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "dress",
}


def engine_at(address: URL) -> Engine:
    """An engine for this address. Opens no connection yet."""
    if is_sqlite(address):
        engine = create_engine(address)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    told = {name: value for name, value in _NETWORK.items() if name not in address.query}
    # Whatever the server's default is: each statement sees what is committed, as the queue's guarded UPDATEs need.
    engine = create_engine(address, isolation_level="READ COMMITTED", connect_args=told, **_POOL)
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_postgresql(connection: psycopg.Connection[Any], _record: Any) -> None:
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
    connection.commit()


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction handling begins late and upgrades read locks, which deadlocks: ours begins at once.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={LOCK_SECONDS * 1000}",
        "journal_mode=WAL",
        "synchronous=FULL",  # in WAL mode only FULL makes a commit survive a power cut
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
