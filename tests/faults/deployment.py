"""What a campaign attacks: API processes, dispatchers, the node and the database, each kept alive as an operator would.

Parts that died are started again at once. Their sockets stay here, so that callers of a dead API wait for the next.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
from sqlalchemy import select

from service.database.schema import upgrade
from service.database.session import Database
from service.database.tables import Attempt, Job
from service.settings import Settings
from tests.faults import audit, clock, history, node, part, planted, staged_pipeline
from tests.faults.node_runner import NodeRunner
from tests.postgresql import Cluster
from tests.processes import serving, until
from tests.stored import write_model

LEASE_SECONDS = 1.0
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_SETTINGS = {
    "DRESS_PIPELINE": "tests.faults.staged_pipeline:run",
    "DRESS_LEASE_SECONDS": str(LEASE_SECONDS),
    "DRESS_HEARTBEAT_SECONDS": "0.3",
    "DRESS_REAP_SECONDS": "2",
    "DRESS_UPKEEP_EVERY_HOURS": "0.002",
    "DRESS_UNPOLLED_SECONDS": "60",
    "DRESS_RETRY_SECONDS": "0.1",
    "DRESS_RETRY_LONGEST_SECONDS": "1",
    "DRESS_MAX_ATTEMPTS": "1000000",  # the campaign may kill without end what has not got further
}


@dataclass(frozen=True)
class Shape:
    """How a deployment is set up."""

    database: str = "sqlite"
    """Or `postgresql`."""
    cpus: int = 8
    """Attempts at once."""
    step_seconds: float = 0.2
    stepped_clock: bool = False
    bug: str = ""
    apis: int = 2
    dispatchers: int = 2


@dataclass(frozen=True)
class Running:
    """An attempt under way."""

    job_id: str
    attempt_id: str
    dispatcher: int
    """Process id of the dispatcher that leads it."""


@dataclass
class Part:
    """A process that shall always run."""

    name: str
    arguments: list[str]
    listener: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)


class Deployment:
    """One folder and the processes that work on it. Not to be started twice."""

    def __init__(self, folder: Path, shape: Shape, told: history.History) -> None:
        self.shape = shape
        self.state = folder / "state"
        self.full = folder / "disk-full"
        self.database_full = folder / "database-full"
        self._step = folder / "clock-ahead"
        self._step.write_text("0", "ascii")
        self.model = write_model(folder / "tiny")
        self.state.mkdir()
        self.cluster = Cluster() if shape.database == "postgresql" else None
        url = self.cluster.url(self.cluster.create()) if self.cluster else ""
        self.settings = Settings(state_dir=self.state, database_url=url)
        self.database = Database(self.settings.database_url)
        upgrade(self.database)
        audit.watch(self.database)
        if shape.stepped_clock and self.cluster:
            with self.database.connection() as connection:
                clock.prepare_postgresql(connection)
            self.database.dispose()
        self._environment = self._variables(told.file)
        self._lock = threading.Lock()
        self._ending = False
        self.apis = [Part(f"api-{place}", ["api"], _listener()) for place in range(shape.apis)]
        self.dispatchers = [Part(f"dispatch-{place}", ["dispatch"]) for place in range(shape.dispatchers)]

    def start(self) -> None:
        """Start all parts, and wait until requests are served."""
        for each in (*self.apis, *self.dispatchers):
            self.keep(each)
        for api in self.apis:
            assert httpx2.get(f"{url_of(api)}/readyz", timeout=_START_SECONDS).status_code == 200
        until(lambda: node.recorded(self.state), _START_SECONDS)

    def keep(self, each: Part) -> None:
        """Start a part unless it lives."""
        with self._lock:
            if self._ending or (each.process is not None and each.process.poll() is None):
                return
            command = [sys.executable, "-m", "tests.faults.part", *each.arguments]
            descriptors = () if each.listener is None else (each.listener.fileno(),)
            command += ["--fd", str(descriptors[0])] if descriptors else []
            environment = {**self._environment, planted.PART: each.name, "DRESS_DATABASE_URL": self._url_for(each)}
            with (self.state / f"{each.name}.log").open("ab") as log:
                each.process = subprocess.Popen(
                    command,
                    env=environment,
                    pass_fds=descriptors,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_die_with_parent,
                )

    def kill(self, each: Part) -> None:
        """Kill a part, and start it again."""
        assert each.process is not None
        each.process.kill()
        each.process.wait()
        self.keep(each)

    def kill_node(self) -> None:
        """Lose the node with all its attempts."""
        found = node.recorded(self.state)
        if found is not None:
            with suppress(ProcessLookupError):
                os.killpg(found.pid, signal.SIGKILL)

    def workers(self) -> dict[str, int]:
        """Process ids of the attempts on the node, by attempt; none while there is no node."""
        found = node.recorded(self.state)
        return (NodeRunner.look(found) or {}) if found is not None else {}

    def running(self) -> tuple[list[Running], int]:
        """The attempts under way, by id, and how many jobs have not ended."""
        ended = ("succeeded", "failed", "cancelled")
        wanted = (
            select(Job.id, Attempt.id, Job.lease_owner)
            .join(Attempt, (Attempt.job_id == Job.id) & (Attempt.number == Job.attempts))
            .where(Job.status == "running")
            .order_by(Attempt.id)
        )
        with self.database.reading() as session:
            found = [
                Running(job_id, attempt_id, int((owner or "").split(":")[1]))
                for job_id, attempt_id, owner in session.execute(wanted)
            ]
            return found, len(session.scalars(select(Job.id).where(Job.status.notin_(ended))).all())

    def step_clock(self, seconds: float) -> None:
        """Have the database's clock so far ahead of the true time."""
        if self.cluster:
            with self.database.connection() as connection:
                clock.step_postgresql(connection, seconds)
            return
        draft = self._step.with_suffix(".draft")
        draft.write_text(str(seconds), "ascii")
        draft.rename(self._step)

    def stop(self) -> list[int]:
        """End the parts in order and the node by force. Process ids of what lives on all the same."""
        with self._lock:
            self._ending = True
        parts = [each.process for each in (*self.apis, *self.dispatchers) if each.process is not None]
        for process in parts:
            process.terminate()
        for process in parts:
            process.wait(_STOP_SECONDS)
        self.kill_node()
        found = node.recorded(self.state)
        if found is not None:
            until(lambda: not found.lives)
            shutil.rmtree(found.folder, ignore_errors=True)
        return [each.pid for each in serving(self.state)]

    def close(self) -> None:
        """End everything, however it stands."""
        self._ending = True
        for each in (*self.apis, *self.dispatchers):
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
                each.process.wait()
            if each.listener is not None:
                each.listener.close()
        self.kill_node()
        for left in serving(self.state):
            with suppress(psutil.Error):
                left.kill()
        self.database.dispose()
        if self.cluster:
            self.cluster.close()

    def sessions(self, each: Part) -> list[int]:
        """Process ids of PostgreSQL that serve a part, but for those that only wait for news."""
        statement = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            f"AND application_name = '{each.name}' AND query NOT LIKE 'LISTEN%%' ORDER BY pid"
        )
        with self.database.connection() as connection:
            return [pid for (pid,) in connection.exec_driver_sql(statement)]

    def _url_for(self, each: Part) -> str:
        """The database's address, by which PostgreSQL knows the part."""
        url = self.settings.database_url
        return f"{url}&application_name={each.name}" if self.cluster else url

    def _variables(self, told: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRESS_", "RAY_"))}
        return kept | {
            **_SETTINGS,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DRESS_STATE_DIR": str(self.state),
            "DRESS_MODEL_ROOTS": str(self.model.parent),
            history.PLACE: str(told),
            part.ROOM: str(self.database_full),
            part.CPUS: str(self.shape.cpus),
            staged_pipeline.PACE: str(self.shape.step_seconds),
            staged_pipeline.FULL: str(self.full),
            clock.STEP: str(self._step) if self.shape.stepped_clock and not self.cluster else "",
            planted.BUG: self.shape.bug,
        }


def url_of(api: Part) -> str:
    """Where an API is."""
    assert api.listener is not None
    return f"http://127.0.0.1:{api.listener.getsockname()[1]}"


def _die_with_parent() -> None:
    """Runs in the new process: a campaign that is killed leaves none behind (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=512)
