"""Several dispatchers as processes on one database: what one leaves behind the other takes up, and nothing twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from service import queue
from service.database.session import Database
from service.settings import Settings
from tests.processes import until
from tests.service.dispatchers import Dispatchers
from workers.contracts.recipe import Recipe

JOBS = 6
STARTED_WITHIN_SECONDS = 60.0


@pytest.fixture
def dispatchers(database: Database, settings: Settings) -> Iterator[Dispatchers]:
    made = Dispatchers(database, settings, "waits")
    yield made
    made.close()


def submit(database: Database, recipe: Recipe, count: int) -> None:
    with database.writing() as session:
        for _ in range(count):
            queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0)


def test_a_killed_dispatcher_leaves_nothing_undone_and_nothing_done_twice(
    dispatchers: Dispatchers, database: Database, recipe: Recipe, tmp_path: Path
) -> None:
    doomed = dispatchers.start(cpus=2)
    submit(database, recipe, JOBS)
    until(lambda: len(dispatchers.led_by(doomed)) == 2, STARTED_WITHIN_SECONDS)
    survivor = dispatchers.start(cpus=6)
    until(lambda: len(dispatchers.led_by(survivor)) == 4, STARTED_WITHIN_SECONDS)
    orphans = dispatchers.led_by(doomed)
    assert len(orphans) == 2, "a dispatcher leaves alone what another leads"
    doomed.kill()
    doomed.wait()
    until(lambda: len(dispatchers.led_by(survivor)) == JOBS, STARTED_WITHIN_SECONDS)
    (tmp_path / "go").touch()
    until(dispatchers.all_succeeded, STARTED_WITHIN_SECONDS)
    for job in dispatchers.jobs():
        attempts = dispatchers.attempts(job.id)
        assert [attempt.outcome for attempt in attempts] == ["lost"] * (job.id in orphans) + ["succeeded"]
        assert all((one.ended_at or 0.0) <= next.started_at for one, next in pairwise(attempts)), "one at a time"
        assert dispatchers.types(job.id)["job_succeeded"] == 1


def test_a_dispatcher_that_comes_back_from_the_dead_writes_nothing(
    dispatchers: Dispatchers, database: Database, recipe: Recipe, tmp_path: Path
) -> None:
    zombie = dispatchers.start(cpus=2)
    submit(database, recipe, 2)
    until(lambda: len(dispatchers.led_by(zombie)) == 2, STARTED_WITHIN_SECONDS)
    with database.writing():  # SQLite has one writer: one that is stopped in mid-write stops all
        zombie.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED)
    heir = dispatchers.start(cpus=2)
    until(lambda: len(dispatchers.led_by(heir)) == 2, STARTED_WITHIN_SECONDS)
    zombie.send_signal(signal.SIGCONT)
    until(lambda: dispatchers.said("letting go") == 2, STARTED_WITHIN_SECONDS)
    (tmp_path / "go").touch()
    until(dispatchers.all_succeeded, STARTED_WITHIN_SECONDS)
    for job in dispatchers.jobs():
        assert [attempt.outcome for attempt in dispatchers.attempts(job.id)] == ["lost", "succeeded"]
        assert dispatchers.types(job.id)["job_succeeded"] == 1


def test_dispatchers_come_and_go_in_order(
    dispatchers: Dispatchers, database: Database, recipe: Recipe, tmp_path: Path
) -> None:
    """Told to end, a dispatcher ends its leases at once: whoever is there need not wait for them to expire."""
    (tmp_path / "go").touch()
    first, second = dispatchers.start(cpus=2), dispatchers.start(cpus=2)
    submit(database, recipe, 24)
    until(lambda: any(job.status == "succeeded" for job in dispatchers.jobs()), STARTED_WITHIN_SECONDS)
    first.terminate()
    assert first.wait(20) == 0
    until(dispatchers.all_succeeded, STARTED_WITHIN_SECONDS)
    second.terminate()
    assert second.wait(20) == 0
    for job in dispatchers.jobs():
        assert dispatchers.types(job.id)["job_succeeded"] == 1
        assert sum(attempt.outcome == "succeeded" for attempt in dispatchers.attempts(job.id)) == 1
