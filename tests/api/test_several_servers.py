"""Several API processes on one database: a key makes one job wherever it is shown, and each tells what another did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from api.client import Client
from tests.api.conftest import Deployment, LiveServer
from tests.processes import DEADLINE_SECONDS
from workers.contracts.events import Notice, Succeeded
from workers.contracts.results import Results

POSTS = 100


@pytest.fixture
def servers(deployment: Deployment) -> Iterator[list[LiveServer]]:
    made = [LiveServer(deployment) for _ in range(2)]
    starting = [threading.Thread(target=each.start) for each in made]  # at once: they race for the local key
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    yield made
    for server in made:
        server.close()


def test_a_hundred_posts_with_one_key_make_one_job(servers: list[LiveServer], deployment: Deployment) -> None:
    headers = {"Authorization": f"Bearer {deployment.key}", "Idempotency-Key": "once"}
    start = threading.Barrier(POSTS)

    def post(number: int) -> httpx2.Response:
        start.wait(DEADLINE_SECONDS)
        url = f"{servers[number % 2].url}/v1/jobs"
        return httpx2.post(url, json={"recipe": deployment.recipe()}, headers=headers, timeout=60)

    with ThreadPoolExecutor(POSTS) as pool:
        answers = list(pool.map(post, range(POSTS)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == POSTS - 1
    with Client(servers[0].url, deployment.key) as client:
        (job,) = client.jobs.list().data
    assert {answer.json()["id"] for answer in answers} == {job.id} and job.last_event == 1


def test_what_one_server_queues_the_other_follows(servers: list[LiveServer], deployment: Deployment) -> None:
    with Client(servers[0].url, deployment.key) as one, Client(servers[1].url, deployment.key) as other:
        job = one.jobs.submit(deployment.recipe())
        stream = other.jobs.events(job.id, follow=True)
        seen = [next(stream).number]
        held = deployment.lease(job.id)
        for sequence in range(1, 10):
            deployment.report(held, sequence, Notice(message="step"))
            seen.append(next(stream).number)
        deployment.report(held, 10, Succeeded(results=Results()))
        seen += [event.number for event in stream]
        assert seen == list(range(1, one.jobs.get(job.id).last_event + 1))
