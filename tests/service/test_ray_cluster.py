"""A Ray cluster of several nodes that somebody else runs: joined by address and token; nodes and head are killed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from service import events, jobs, queue
from service.database.schema import upgrade
from service.database.session import Database
from service.settings import Settings
from tests.processes import until
from workers.contracts.recipe import Recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

GIVEN_UP_SECONDS = "4"
"""After so long without its head, Ray ends whatever is connected to it; a minute unless told otherwise."""


DEADLINE_SECONDS = 90.0


class Cluster:
    """Real Ray nodes on this machine, each a session of processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        token = folder / "token"
        token.write_text(secrets.token_hex(32), "ascii")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DRESS_", "RAY_"))},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": GIVEN_UP_SECONDS,
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "4",
        }
        self.nodes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def head(self) -> subprocess.Popen[bytes]:
        """Start the head, which runs no attempt, at the port of the one before it."""
        folder = self.folder / f"h{len(self.nodes)}"
        options = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}"]
        node = self._start(*options)
        announced = folder / "ray_current_cluster"
        until(announced.exists, DEADLINE_SECONDS)
        self.port = int(announced.read_text("utf-8").strip().rpartition(":")[2])
        return node

    def node(self) -> subprocess.Popen[bytes]:
        """Add a node with room for one job."""
        return self._start(f"--address={self.address}", "--num-cpus=1")

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL to every process of a node at once, as when its machine goes."""
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == node.pid:
                    process.kill()
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        node.wait(10)

    def end(self) -> None:
        for node in self.nodes:
            self.kill(node)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        fixed = ["--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
        small = ["--dashboard-agent-listen-port=0", "--object-store-memory=80000000"]
        with (self.folder / "ray.log").open("ab") as log:
            node = subprocess.Popen(
                [*command, *fixed, *small, *options],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.nodes.append(node)
        return node


class Deployment:
    """A database and a dispatcher that joins the cluster, begun anew whenever it ends, as by a supervisor."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.settings = Settings(state_dir=folder / "state", ray_address=cluster.address)
        self.settings.state_dir.mkdir()
        self.environment = cluster.environment | {
            "DRESS_STATE_DIR": str(self.settings.state_dir),
            "DRESS_RAY_ADDRESS": cluster.address,
            "DRESS_PIPELINE": "tests.service.torchfree_pipelines:gated",
            "DRESS_LEASE_SECONDS": "2",
            "DRESS_HEARTBEAT_SECONDS": "0.5",
            "DRESS_RETRY_SECONDS": "0.1",
        }
        self.database = Database(self.settings.database_url)
        upgrade(self.database)
        self._dispatcher: subprocess.Popen[bytes] | None = None

    def supervise(self) -> None:
        """Start the dispatcher unless it lives."""
        if self._dispatcher is None or self._dispatcher.poll() is not None:
            with (self.settings.state_dir / "dispatch.log").open("ab") as log:
                command = [sys.executable, "-m", "service.dispatch"]
                self._dispatcher = subprocess.Popen(command, env=self.environment, stderr=log)

    def submit(self, recipe: Recipe) -> str:
        with self.database.writing() as session:
            return queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0).id

    def until(self, job_id: str, *types: str) -> list[Any]:
        """The job's events, once those of these types have come, each as often as it is named."""

        def told() -> list[Any]:
            with self.database.reading() as session:
                return list(events.listing(session, job_id, after=0, limit=100_000))

        def all_there() -> bool:
            self.supervise()
            found = [event.type for event in told()]
            return all(found.count(each) >= types.count(each) for each in types)

        until(all_there, DEADLINE_SECONDS)
        found = told()
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        return found

    def status(self, job_id: str) -> str:
        with self.database.reading() as session:
            return jobs.get(session, job_id).status

    def end(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.send_signal(signal.SIGKILL)
            self._dispatcher.wait()
        self.database.dispose()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="dr-"))  # the paths of Ray's sockets must be short
    cluster = Cluster(folder)
    yield cluster
    cluster.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def deployment(cluster: Cluster, tmp_path: Path) -> Iterator[Deployment]:
    cluster.head()
    deployment = Deployment(tmp_path, cluster)
    yield deployment
    deployment.end()


def test_nodes_come_and_go(cluster: Cluster, deployment: Deployment, recipe: Recipe, tmp_path: Path) -> None:
    """One node a job: the second waits for a node that joins; the first goes on elsewhere when its node is gone."""
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(tmp_path / "text.txt")})})
    first_node = cluster.node()
    first = deployment.submit(recipe)
    deployment.until(first, "checkpoint_saved")
    second = deployment.submit(recipe)
    assert deployment.status(second) == "queued"

    cluster.node()
    deployment.until(second, "checkpoint_saved")
    cluster.kill(first_node)
    told = deployment.until(first, "job_requeued")
    assert told[-1].body.get("code", "worker_lost") == "worker_lost"
    cluster.node()
    told = deployment.until(first, "checkpoint_loaded")
    assert deployment.status(second) == "running", "the other node's job has noticed nothing"

    cluster.kill(cluster.nodes[0])
    cluster.head()
    for _ in range(2):
        cluster.node()
    (tmp_path / "go").touch()
    for job_id in (first, second):
        ends = [event.type for event in deployment.until(job_id, "job_succeeded")]
        assert ends.count("job_succeeded") == 1 and ends[-1] == "job_succeeded"


def test_a_cluster_takes_nobody_without_its_token(cluster: Cluster, tmp_path: Path) -> None:
    cluster.head()
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32), "ascii")
    deployment = Deployment(tmp_path, cluster)
    environment = deployment.environment | {"RAY_AUTH_TOKEN_PATH": str(wrong)}
    refused = subprocess.run(
        [sys.executable, "-m", "service.dispatch"], env=environment, text=True, capture_output=True, timeout=120
    )
    assert refused.returncode != 0 and "token" in refused.stderr.lower()
    deployment.end()
