"""A part of the service as a campaign runs it: the real one, on the campaign's node, clock and bugs.

    python -m tests.faults.part api --fd 7
    python -m tests.faults.part dispatch

Only the runner is another than `dress dispatch` has. `dress api` is run as it is.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from service.settings import Settings
from tests.faults import clock, planted

CPUS = "DRESS_CAMPAIGN_CPUS"
"""Environment variable: attempts at once."""
ROOM = "DRESS_CAMPAIGN_DATABASE_FULL"
"""Environment variable with the path of a file; while it exists, SQLite's file does not grow."""
_MOST_PAGES = 2**30 - 1


def main() -> int:
    if os.environ.get(planted.BUG):
        from tests.faults import bugs  # else no more is loaded than the part itself loads

        bugs.plant(os.environ[planted.BUG])
    if os.environ.get(clock.STEP):
        event.listen(Engine, "connect", _set_clock)
    event.listen(Engine, "begin", _limit)
    name = sys.argv.pop(1)
    if name == "api":
        from api.__main__ import main as serve

        return serve()
    _dispatch()
    return 0


def _set_clock(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        clock.shift_sqlite(connection, Path(os.environ[clock.STEP]))


def _limit(connection: Connection) -> None:
    """SQLite itself says that the disk is full: it takes no smaller limit than what it has."""
    if connection.dialect.name == "sqlite":
        pages = 1 if os.path.exists(os.environ[ROOM]) else _MOST_PAGES
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}").close()


def _dispatch() -> None:
    """As `service.dispatch.__main__` does, with another runner."""
    from service.artifacts.stores import open_store
    from service.database.schema import require_known
    from service.database.session import Database
    from service.dispatch.dispatcher import Dispatcher
    from service.upkeep import Keeper
    from tests.faults.node_runner import NodeRunner

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings.from_environment()
    database = Database(settings.database_url)
    require_known(database)
    store = open_store(settings.artifacts_url)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    runner = NodeRunner(settings.state_dir, int(os.environ[CPUS]))
    try:
        Dispatcher(database, runner, store, settings, Keeper(database, store, settings)).run_forever(stop)
    finally:
        runner.close()
        database.dispose()


if __name__ == "__main__":
    sys.exit(main())
