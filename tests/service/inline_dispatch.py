"""A dispatcher as a process whose attempts are its own threads: they die with it, in a fraction of Ray's time."""

import logging
import signal
import sys
import threading

from service.artifacts.stores import open_store
from service.database.schema import require_known
from service.database.session import Database
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.inline_runner import InlineRunner
from service.settings import Settings


def main() -> None:
    """Dispatch until SIGTERM, as `service.dispatch` does, with as many CPUs as the argument says."""
    logging.basicConfig(level=logging.INFO)
    settings = Settings.from_environment()
    database = Database(settings.database_url)
    require_known(database)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Dispatcher(database, InlineRunner(int(sys.argv[1])), open_store(settings.artifacts_url), settings).run_forever(stop)
    database.dispose()


if __name__ == "__main__":
    main()
