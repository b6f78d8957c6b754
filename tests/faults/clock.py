"""Steps the database's clock while the service works: what `database_now` reads then jumps, on either database."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection

STEP = "DRESS_CAMPAIGN_CLOCK"
"""Environment variable with the path of a file that says by how many seconds SQLite's clock is ahead."""

_UNIX_EPOCH_DAYS = 2440587.5
_DAY_SECONDS = 86400.0


def shift_sqlite(connection: sqlite3.Connection, file: Path) -> None:
    """SQLite reads its process's clock: a function of ours takes the place of its own."""

    def julianday(_moment: str) -> float:
        return _UNIX_EPOCH_DAYS + (time.time() + float(file.read_text("ascii"))) / _DAY_SECONDS

    connection.create_function("julianday", 1, julianday)


def prepare_postgresql(connection: Connection) -> None:
    """Have new connections find a clock of ours before the server's. The tables must be there already: what is made
    later would land in the schema that comes first."""
    for statement in (
        "CREATE SCHEMA stepped",
        "CREATE TABLE stepped.ahead (seconds DOUBLE PRECISION)",
        "INSERT INTO stepped.ahead VALUES (0)",
        "CREATE FUNCTION stepped.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS "
        "'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM stepped.ahead))'",
    ):
        connection.exec_driver_sql(statement)
    name = connection.engine.url.database
    connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET search_path = stepped, pg_catalog, public')


def step_postgresql(connection: Connection, seconds: float) -> None:
    """So far ahead of the true time from now on."""
    connection.exec_driver_sql(f"UPDATE stepped.ahead SET seconds = {seconds}")
