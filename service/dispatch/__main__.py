"""`dress dispatch`: runs the dispatcher until SIGTERM, or with `--stop-ray` ends this state folder's local Ray."""

import argparse
import logging
import os
import signal
import sys
import threading

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from service.artifacts.stores import open_store
from service.database.schema import require_known
from service.database.session import Database
from service.dispatch import local_ray
from service.dispatch.dispatcher import Dispatcher
from service.errors import ServiceError
from service.settings import Settings
from service.upkeep import Keeper


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="dress dispatch", description=__doc__)
    parser.add_argument(
        "--stop-ray", action="store_true", help="end the local Ray of DRESS_STATE_DIR and all its workers"
    )
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
        if arguments.stop_ray:
            local_ray.stop(settings.state_dir)
            return 0
        _dispatch(settings)
    except DBAPIError as error:
        print(f"dress dispatch: the database refuses or does not answer: {error.orig}", file=sys.stderr)
        return 1
    except (ServiceError, ValidationError) as error:
        print(f"dress dispatch: {error}", file=sys.stderr)
        return 1
    return 0


def _dispatch(settings: Settings) -> None:
    database = Database(settings.database_url)
    require_known(database)
    store = open_store(settings.artifacts_url)
    store.sweep()
    if settings.ray_address is None:
        local_ray.prepare_environment(settings.state_dir)
    # Only now: Ray reads its environment when it is imported, and a refusal should not wait for it.
    from service.dispatch.ray_runner import RayRunner

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    runner = RayRunner(settings.state_dir, settings.ray_address, on_stuck=_begin_anew)
    try:
        Dispatcher(database, runner, store, settings, Keeper(database, store, settings)).run_forever(stop)
    finally:
        runner.close()
        database.dispose()


def _begin_anew() -> None:
    """Replace this process, which hangs in a call to a dead Ray, by a fresh dispatcher of the same process id."""
    logging.getLogger(__name__).warning("stuck in a call to a Ray that is gone; the dispatcher begins anew")
    os.execv(sys.executable, [sys.executable, "-m", "service.dispatch"])  # noqa: S606  no argument comes from a user


if __name__ == "__main__":
    sys.exit(main())
