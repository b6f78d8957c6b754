"""`dress migrate` and `dress dispatch` as processes: killed, restarted, robbed of their Ray."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from service import events, jobs, queue
from service.database.session import Database
from service.dispatch import local_ray
from service.settings import Settings
from tests.service.deadlines import eventually
from workers.contracts.recipe import Recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Deployment:
    """One state folder and the processes that work on it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(state_dir=folder / "state")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DRESS_", "RAY_"))},
            "DRESS_STATE_DIR": str(self.settings.state_dir),
            "DRESS_PIPELINE": "tests.service.torchfree_pipelines:gated",
            "DRESS_LEASE_SECONDS": "2",
            "DRESS_HEARTBEAT_SECONDS": "0.5",
        }
        self.started: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command], env=self.environment, text=True, capture_output=True, timeout=60
        )

    def dispatcher(self) -> subprocess.Popen[bytes]:
        with (self.settings.state_dir / "dispatch.log").open("ab") as log:
            child = subprocess.Popen([sys.executable, "-m", "service.dispatch"], env=self.environment, stderr=log)
        self.started.append(child)
        return child

    def told(self, database: Database, job_id: str) -> list[Any]:
        with database.reading() as session:
            found = events.listing(session, job_id, after=0, limit=100_000)
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        return found


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    yield deployment
    for child in deployment.started:
        child.kill()
        child.wait()
    local_ray.stop(deployment.settings.state_dir)


def test_a_job_survives_its_dispatcher_and_its_cluster(deployment: Deployment, recipe: Recipe, tmp_path: Path) -> None:
    refused = deployment.run("service.dispatch")
    assert refused.returncode == 1 and "dress migrate" in refused.stderr
    assert deployment.run("service.database").returncode == 0
    database = Database(deployment.settings.database_url)
    with database.writing() as session:
        job_id = queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0).id
    pause = threading.Event()

    def until(type: str, seconds: float = 60.0) -> None:
        eventually(
            lambda: type in [event.type for event in deployment.told(database, job_id)],
            lambda: pause.wait(0.1),
            seconds,
        )

    def job() -> Any:
        with database.reading() as session:
            return jobs.get(session, job_id)

    first = deployment.dispatcher()
    until("progress")
    first.kill()
    first.wait()
    second = deployment.dispatcher()
    until("attempt_adopted")
    assert job().attempts == 1

    head = local_ray.recorded(deployment.settings.state_dir)
    assert head is not None
    os.kill(head.pid, signal.SIGKILL)
    until("checkpoint_loaded")
    assert job().attempts == 2
    (tmp_path / "go").touch()
    until("job_succeeded")

    second.terminate()
    assert second.wait(timeout=20) == 0
    head = local_ray.recorded(deployment.settings.state_dir)
    assert head is not None and local_ray.is_alive(head), "Ray outlives the dispatcher"
    members = [process for process in psutil.process_iter() if _session(process) == head.pid]
    assert len(members) > 2
    assert deployment.run("service.dispatch", "--stop-ray").returncode == 0
    assert not [process for process in members if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not Path(head.folder).exists()
    database.dispose()


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return -1
