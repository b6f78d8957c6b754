"""PostgreSQL restarted, and killed, under load: servers and dispatchers survive it; nothing is lost or done twice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.client import Client
from service.database.schema import upgrade
from service.database.session import Database
from tests.api.conftest import Deployment, LiveServer
from tests.postgresql import Cluster
from tests.processes import until
from tests.service.dispatchers import Dispatchers

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

CALLERS = 3
PATIENCE_SECONDS = 60.0


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """Not the session's: others would notice."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def deployment(own_cluster: Cluster, tmp_path: Path) -> Iterator[Deployment]:
    url = own_cluster.url(own_cluster.create())
    database = Database(url)
    upgrade(database)
    database.dispose()
    made = Deployment(tmp_path, url)
    yield made
    made.database.dispose()


@pytest.fixture
def live(deployment: Deployment) -> Iterator[LiveServer]:
    with LiveServer(deployment) as server:
        yield server


@pytest.fixture
def dispatchers(deployment: Deployment) -> Iterator[Dispatchers]:
    made = Dispatchers(deployment.database, deployment.settings, "whole")
    for _ in range(2):
        made.start(cpus=2)
    until(made.at_work, PATIENCE_SECONDS)
    yield made
    made.close()


def test_a_database_that_comes_and_goes(
    own_cluster: Cluster, deployment: Deployment, live: LiveServer, dispatchers: Dispatchers
) -> None:
    enough, accepted = threading.Event(), list[str]()

    def call(_number: int) -> None:
        with Client(live.url, deployment.key, retry_seconds=PATIENCE_SECONDS) as client:
            while not enough.is_set():
                accepted.append(client.jobs.submit(deployment.recipe()).id)

    def follow(job_id: str) -> list[int]:
        with Client(live.url, deployment.key, retry_seconds=PATIENCE_SECONDS) as client:
            return [event.number for event in client.jobs.events(job_id, follow=True)]

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        callers = [pool.submit(call, number) for number in range(CALLERS)]
        until(lambda: len(accepted) > 3, PATIENCE_SECONDS)
        followed = accepted[0]
        following = pool.submit(follow, followed)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT, signal.SIGQUIT):
            before = len(accepted)
            own_cluster.stop(number)
            own_cluster.start()
            until(lambda before=before: len(accepted) > before + 3, PATIENCE_SECONDS)
        enough.set()
        for each in callers:
            each.result(PATIENCE_SECONDS)
        until(dispatchers.all_succeeded, PATIENCE_SECONDS)
        seen = following.result(PATIENCE_SECONDS)

    jobs = {job.id: job for job in dispatchers.jobs()}
    assert sorted(jobs) == sorted(accepted), "each request that was accepted is one job, and there are no others"
    for job_id in jobs:
        assert dispatchers.types(job_id)["job_succeeded"] == 1
    assert seen == list(range(1, jobs[followed].last_event + 1))
    assert live.process is not None and live.process.poll() is None
    assert [process.poll() for process in dispatchers.processes] == [None, None], "they live on"
