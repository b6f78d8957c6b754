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

from sqlalchemy import Engine, event

from service.settings import Settings
from tests.faults import bugs, clock

CPUS = "DRESS_CAMPAIGN_CPUS"
"""Environment variable: attempts at once."""


def main() -> int:
    if os.environ.get(bugs.PLANTED):
        bugs.plant(os.environ[bugs.PLANTED])
    if os.environ.get(clock.STEP):
        event.listen(Engine, "connect", _set_clock)
    name = sys.argv.pop(1)
    if name == "api":
        from api.__main__ import main as serve

        return serve()
    _dispatch()
    return 0


def _set_clock(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        clock.shift_sqlite(connection, Path(os.environ[clock.STEP]))


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
