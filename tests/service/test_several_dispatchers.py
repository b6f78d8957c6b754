"""Several dispatchers as processes on one database: what one leaves behind the other takes up, and nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import select

from service import events, queue
from service.database.session import Database
from service.database.tables import Attempt, Job
from service.settings import Settings
from tests.processes import until
from workers.contracts.recipe import Recipe

JOBS = 6
STARTED_WITHIN_SECONDS = 60.0


class Deployment:
    """One database, and dispatchers on it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self._log = settings.state_dir / "dispatch.log"
        self._environment = {
            **os.environ,
            "DRESS_STATE_DIR": str(settings.state_dir),
            "DRESS_DATABASE_URL": settings.database_url,
            "DRESS_PIPELINE": "tests.service.torchfree_pipelines:gated",
            "DRESS_LEASE_SECONDS": "2",
            "DRESS_HEARTBEAT_SECONDS": "0.5",
            "DRESS_POLL_SECONDS": "0.1",
            "DRESS_RETRY_SECONDS": "0.1",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, cpus: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "tests.service.inline_dispatch", str(cpus)]
            self.processes.append(subprocess.Popen(command, env=self._environment, stdout=log, stderr=log))
        return self.processes[-1]

    def submit(self, recipe: Recipe) -> None:
        with self.database.writing() as session:
            for _ in range(JOBS):
                queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0)

    def jobs(self) -> list[Job]:
        with self.database.reading() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))

    def led_by(self, process: subprocess.Popen[bytes]) -> set[str]:
        """The jobs whose lease this process has."""
        return {job.id for job in self.jobs() if (job.lease_owner or "").split(":")[1:2] == [str(process.pid)]}

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.reading() as session:
            return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)))

    def types(self, job_id: str) -> Counter[str]:
        with self.database.reading() as session:
            told = events.listing(session, job_id, after=0, limit=10_000)
        assert [event.number for event in told] == list(range(1, len(told) + 1))
        return Counter(event.type for event in told)


@pytest.fixture
def deployment(database: Database, settings: Settings) -> Iterator[Deployment]:
    deployment = Deployment(database, settings)
    yield deployment
    for process in deployment.processes:
        process.kill()
        process.wait()


def test_a_killed_dispatcher_leaves_nothing_undone_and_nothing_done_twice(
    deployment: Deployment, recipe: Recipe, tmp_path: Path
) -> None:
    doomed = deployment.start(cpus=2)
    deployment.submit(recipe)
    until(lambda: len(deployment.led_by(doomed)) == 2, STARTED_WITHIN_SECONDS)
    survivor = deployment.start(cpus=6)
    until(lambda: len(deployment.led_by(survivor)) == 4, STARTED_WITHIN_SECONDS)
    orphans = deployment.led_by(doomed)
    assert len(orphans) == 2, "a dispatcher leaves alone what another leads"
    doomed.kill()
    doomed.wait()
    until(lambda: len(deployment.led_by(survivor)) == JOBS, STARTED_WITHIN_SECONDS)
    (tmp_path / "go").touch()
    until(lambda: {job.status for job in deployment.jobs()} == {"succeeded"}, STARTED_WITHIN_SECONDS)
    for job in deployment.jobs():
        attempts = deployment.attempts(job.id)
        assert [attempt.outcome for attempt in attempts] == ["lost"] * (job.id in orphans) + ["succeeded"]
        assert all((one.ended_at or 0.0) <= next.started_at for one, next in pairwise(attempts)), "one at a time"
        assert deployment.types(job.id)["job_succeeded"] == 1


def test_dispatchers_come_and_go_in_order(deployment: Deployment, recipe: Recipe, tmp_path: Path) -> None:
    """Told to end, a dispatcher ends its leases at once: whoever is there need not wait for them to expire."""
    (tmp_path / "go").touch()
    first, second = deployment.start(cpus=2), deployment.start(cpus=2)
    for _ in range(4):
        deployment.submit(recipe)
    until(lambda: any(job.status == "succeeded" for job in deployment.jobs()), STARTED_WITHIN_SECONDS)
    first.terminate()
    assert first.wait(20) == 0
    until(lambda: {job.status for job in deployment.jobs()} == {"succeeded"}, STARTED_WITHIN_SECONDS)
    second.terminate()
    assert second.wait(20) == 0
    for job in deployment.jobs():
        assert deployment.types(job.id)["job_succeeded"] == 1
        assert sum(attempt.outcome == "succeeded" for attempt in deployment.attempts(job.id)) == 1
