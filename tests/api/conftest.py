"""A deployment to talk to: a migrated database, a model folder, an app in this process or a server in another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.app import create_app
from api.client import Client
from service import queue
from service.artifacts.stores import open_store
from service.database.schema import upgrade
from service.database.session import Database
from service.settings import Settings
from tests.conftest import run_on_both
from tests.processes import DEADLINE_SECONDS
from tests.stored import write_model
from workers.contracts.events import ArtifactStored, Event, NumberedEvent, Succeeded
from workers.contracts.results import Measurement, Results, StoredFile
from workers.contracts.trials import TrialFinished, TrialProgressed, TrialProposed, TrialReported

LEASE_SECONDS = 600.0
ON_BOTH = {
    "test_compare",
    "test_datasets",
    "test_events",
    "test_jobs",
    "test_queue",
    "test_retrying",
    "test_search_faults",
    "test_searches",
    "test_several_servers",
    "test_waking",
}
"""Modules whose tests run on either database."""


class Deployment:
    """State folder, database and store of one test, and a worker's part in it."""

    def __init__(self, root: Path, database_url: str = "", **changes: Any) -> None:
        """Without a URL, on a SQLite file of its own; with one, on a database at the newest schema."""
        self.state = root / "state"
        self.model = write_model(root / "tiny")
        roots = (str(root),)
        places = {"model_roots": roots, "data_roots": roots}
        self.settings = Settings(state_dir=self.state, database_url=database_url, **places, **changes)
        self.database = Database(self.settings.database_url)
        if not database_url:
            upgrade(self.database)
        self.store = open_store(self.settings.artifacts_url)
        self._root = root

    def recipe(self, **method: Any) -> dict[str, Any]:
        """A recipe that is accepted."""
        return {"model": {"source": str(self.model)}, "method": {"kind": "dress", "ratio": 0.25, **method}}

    def search(self, **changes: Any) -> dict[str, Any]:
        """A search that is accepted: two objectives, since the ratio varies."""
        base = {"model": {"source": str(self.model)}, "method": {"kind": "dress"}}
        space = {"method.strength": {"loguniform": [1e-5, 1e-1]}, "method.ratio": {"choice": [0.25, 0.5]}}
        objective = [{"metric": "perplexity.wikitext2", "mode": "min"}]
        return {"base": base, "space": space, "objective": objective, "trials": 4, "concurrency": 2, **changes}

    @property
    def key(self) -> str:
        """The local key, made by the server's start."""
        return self.settings.api_key_file.read_text("utf-8").strip()

    def lease(self, job_id: str) -> queue.Lease:
        """Begin an attempt, as a dispatcher does."""
        with self.database.writing() as session:
            held = queue.lease(session, job_id, owner="test", seconds=LEASE_SECONDS)
        assert held is not None
        return held

    def report(self, held: queue.Lease, first: int, *told: Event) -> None:
        """Commit what an attempt reports; `first` is the sequence of the first event."""
        batch = [NumberedEvent(sequence=first + place, event=event) for place, event in enumerate(told)]
        with self.database.writing() as session:
            queue.apply(session, held, batch, self.settings.retry_rules)

    def stored(self, files: dict[str, bytes]) -> list[StoredFile]:
        """Files as a worker puts them into the store."""
        draft = self._root / "draft"
        return [self.store.put(draft, path) for path, content in files.items() if draft.write_bytes(content) >= 0]

    def succeed(self, job_id: str, files: dict[str, bytes] | None = None) -> None:
        """Play a whole attempt that leaves these files."""
        results = Results(dense=Measurement(parameters=100, perplexity={"wikitext2": 5.5}))
        held = self.lease(job_id)
        self.report(held, 1, ArtifactStored(files=self.stored(files or {})), Succeeded(results=results))

    def try_out(self, search_id: str, *last: Event) -> queue.Lease:
        """Play an attempt at a search: two trials that succeeded, one stopped, one failed; then what comes last."""
        held = self.lease(search_id)
        self.report(held, 1, *self._trials(), *last)
        return held

    def _trials(self) -> list[Event]:
        files = self.stored({"model/config.json": b"{}"})
        return [
            *(
                TrialProposed(trial=number, point={"method.strength": strength, "method.ratio": ratio})
                for number, strength, ratio in ((1, 1e-3, 0.25), (2, 1e-2, 0.25), (3, 1e-4, 0.5), (4, 1e-5, 0.5))
            ),
            TrialProgressed(trial=1, stage="regularize", step=1, steps=2, fraction=0.5, metrics={"loss": 2.5}),
            finished(1, 7.5, 750, files=files),
            TrialReported(trial=2, rung=0, value=3.5, decision="stop"),
            TrialFinished(trial=2, status="stopped", seconds=2.0, message="not among the best"),
            finished(3, 9.0, 500, avoided_seconds=12.0, avoided_by_stage={"evaluate dense": 12.0}),
            TrialFinished(trial=4, status="failed", seconds=1.0, code="diverged", message="the loss is gone"),
        ]


def finished(trial: int, perplexity: float, parameters: int, **more: Any) -> TrialFinished:
    """The end of a trial that succeeded, for a search with an objective and the parameters."""
    results = Results(
        dense=Measurement(parameters=1000, perplexity={"wikitext2": 5.0}),
        pruned=Measurement(parameters=parameters, perplexity={"wikitext2": perplexity}),
    )
    values = [perplexity, float(parameters)]
    told = {"seconds": 10.0, "gpu_seconds": 5.0, **more}
    return TrialFinished(trial=trial, status="succeeded", values=values, results=results, **told)


class LiveServer:
    """`python -m api` in a process of its own, on a socket that outlives its restarts."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until requests are served."""
        descriptor = self._listener.fileno()
        settings = self._deployment.settings
        roots = {"DRESS_MODEL_ROOTS": str(self._deployment.model.parent)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(descriptor)],
            pass_fds=(descriptor,),
            env={
                **os.environ,
                **roots,
                "DRESS_STATE_DIR": str(settings.state_dir),
                "DRESS_DATABASE_URL": settings.database_url,
            },
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        answer = httpx2.get(f"{self.url}/readyz", timeout=DEADLINE_SECONDS)  # the socket listens already: this waits
        assert answer.status_code == 200, answer.text

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End it; the seconds that took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(DEADLINE_SECONDS)
        return time.monotonic() - began

    def close(self) -> None:
        """End it in any case."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_SECONDS)
        self._listener.close()

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What rests on the database more than on HTTP must pass on both."""
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        run_on_both(metafunc)


@pytest.fixture
def deployment(tmp_path: Path, backend: str, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    made = Deployment(tmp_path, request.getfixturevalue("postgresql_url") if backend == "postgresql" else "")
    yield made
    made.database.dispose()


@pytest.fixture
def anonymous(deployment: Deployment) -> Iterator[TestClient]:
    with TestClient(create_app(deployment.settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def http(anonymous: TestClient, deployment: Deployment) -> TestClient:
    anonymous.headers["Authorization"] = f"Bearer {deployment.key}"
    return anonymous


@pytest.fixture
def job_id(http: TestClient, deployment: Deployment) -> str:
    return str(http.post("/v1/jobs", json={"recipe": deployment.recipe()}).json()["id"])


@pytest.fixture
def search_id(http: TestClient, deployment: Deployment) -> str:
    return str(http.post("/v1/searches", json={"search": deployment.search()}).json()["id"])


@pytest.fixture
def live(deployment: Deployment) -> Iterator[LiveServer]:
    with LiveServer(deployment) as server:
        yield server


@pytest.fixture
def served(deployment: Deployment) -> Iterator[str]:
    """The URL of a real server in a thread of this process: quicker to have than another process."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(deployment.settings), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.start()
    assert httpx2.get(f"{url}/readyz", timeout=DEADLINE_SECONDS).status_code == 200
    yield url
    server.should_exit = True
    thread.join(DEADLINE_SECONDS)


@pytest.fixture
def client(served: str, deployment: Deployment) -> Iterator[Client]:
    with Client(served, deployment.key, retry_seconds=DEADLINE_SECONDS) as made:
        yield made


@pytest.fixture
def live_client(live: LiveServer, deployment: Deployment) -> Iterator[Client]:
    with Client(live.url, deployment.key, retry_seconds=DEADLINE_SECONDS) as made:
        yield made
