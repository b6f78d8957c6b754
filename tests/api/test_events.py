"""Events: the list, the stream, and following across broken connections and restarts."""

from __future__ import annotations

import itertools
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest
from fastapi.testclient import TestClient

from api.client import Client
from api.routes import events as routes
from tests.api.conftest import DEADLINE_SECONDS, Deployment, LiveServer
from workers.contracts.events import Notice, Succeeded
from workers.contracts.results import Results

STREAM = {"Accept": "text/event-stream"}


def _told(text: str) -> list[tuple[int, str]]:
    """Numbers and types of the events in a stream."""
    told = [block for block in text.split("\n\n") if "\nid:" in block]
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in told]
    return [(int(block["id"]), block["event"]) for block in blocks]


def test_the_list_pages_by_number(http: TestClient, job_id: str, deployment: Deployment) -> None:
    deployment.succeed(job_id)
    everything = http.get(f"/v1/jobs/{job_id}/events").json()
    numbers = [event["number"] for event in everything["data"]]
    assert numbers == list(range(1, len(numbers) + 1)) and not everything["has_more"]
    first = http.get(f"/v1/jobs/{job_id}/events", params={"limit": 2}).json()
    rest = http.get(f"/v1/jobs/{job_id}/events", params={"after": 2}).json()
    assert first["has_more"] and first["data"] + rest["data"] == everything["data"]
    assert len({event["id"] for event in everything["data"]}) == len(numbers)


def test_the_stream_ends_with_the_job(http: TestClient, job_id: str, deployment: Deployment) -> None:
    deployment.succeed(job_id)
    answer = http.get(f"/v1/jobs/{job_id}/events", headers=STREAM)
    told = _told(answer.text)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert [number for number, _ in told] == list(range(1, len(told) + 1))
    assert told[0][1] == "job_queued" and told[-1][1] == "job_succeeded"
    assert f'"number":{len(told)}' in answer.text
    resumed = http.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": "2"}, params={"after": 0})
    assert _told(resumed.text) == told[2:]
    assert _told(http.get(f"/v1/jobs/{job_id}/events", headers=STREAM, params={"after": 3}).text) == told[3:]
    over = http.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": str(len(told))})
    assert (over.status_code, over.content) == (204, b""), "told not to reconnect"


def test_a_stream_reads_long_histories_whole(http: TestClient, job_id: str, deployment: Deployment) -> None:
    held = deployment.lease(job_id)
    count = 2 * routes.PAGE + 7
    deployment.report(held, 1, *(Notice(message=str(n)) for n in range(count)), Succeeded(results=Results()))
    told = _told(http.get(f"/v1/jobs/{job_id}/events", headers=STREAM).text)
    assert [number for number, _ in told] == list(range(1, len(told) + 1)) and len(told) > count


def test_a_silent_stream_comments(
    http: TestClient, job_id: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "COMMENT_SECONDS", 0.1)
    end = threading.Timer(0.6, deployment.succeed, [job_id])
    end.start()
    text = http.get(f"/v1/jobs/{job_id}/events", headers=STREAM).text
    end.join()
    assert text.count(": still here") >= 2
    assert _told(text)[-1][1] == "job_succeeded"


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [("text/event-stream", True), ("text/html, Text/Event-Stream;q=0.9", True), ("*/*", False), ("", False),
     ("application/json", False), ("text/event-stream;q=0", False)],
)  # fmt: skip
def test_what_the_caller_accepts(accept: str, is_stream: bool) -> None:
    assert routes._wants_stream(accept) is is_stream


def test_many_followers_see_the_same(client: Client, deployment: Deployment) -> None:
    job = client.jobs.submit(deployment.recipe())
    with ThreadPoolExecutor(8) as pool:
        followed = [
            pool.submit(lambda: [event.number for event in client.jobs.events(job.id, follow=True)]) for _ in range(8)
        ]
        held = deployment.lease(job.id)
        for sequence in range(1, 20):
            deployment.report(held, sequence, Notice(message="step"))
        deployment.report(held, 20, Succeeded(results=Results()))
        seen = [each.result(DEADLINE_SECONDS) for each in followed]
    last = client.jobs.get(job.id).last_event
    assert seen == [list(range(1, last + 1))] * 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_following_survives_a_restart(
    live: LiveServer, live_client: Client, deployment: Deployment, number: int
) -> None:
    job = live_client.jobs.submit(deployment.recipe())
    stream = live_client.jobs.events(job.id, follow=True)
    held = deployment.lease(job.id)
    deployment.report(held, 1, Notice(message="before"))
    seen = [event.number for event in itertools.islice(stream, 3)]
    seconds = live.stop(number)
    assert seconds < 5, "open streams do not hold up a shutdown"
    deployment.report(held, 2, Notice(message="meanwhile"))
    starting = threading.Thread(target=live.start)
    starting.start()
    seen.append(next(stream).number)
    starting.join()
    deployment.report(held, 3, Notice(message="after"), Succeeded(results=Results()))
    seen += [event.number for event in stream]
    assert seen == list(range(1, live_client.jobs.get(job.id).last_event + 1)), "no gap, no duplicate"


def test_waiting_requests_do_not_hold_up_a_shutdown(
    live: LiveServer, live_client: Client, deployment: Deployment
) -> None:
    job = live_client.jobs.submit(deployment.recipe())
    waiting = HTTPConnection(live.url.removeprefix("http://"), timeout=DEADLINE_SECONDS)
    waiting.request("GET", f"/v1/jobs/{job.id}?wait=60", headers={"Authorization": f"Bearer {deployment.key}"})
    live_client.jobs.get(job.id)  # answered after the other request was read
    assert live.stop() < 5
    assert waiting.getresponse().status == 200
