"""The queue at a glance: over HTTP and from the command line; the dead, told by their error and tried again at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from api.cli import app
from service import queue
from service.domain.lease import RetryRules
from tests.api.conftest import Deployment
from workers.contracts.events import Failed
from workers.errors import FaultClass


def submit(http: TestClient, deployment: Deployment, **more: Any) -> str:
    return str(http.post("/v1/jobs", json={"recipe": deployment.recipe(), **more}).json()["id"])


def fail(deployment: Deployment, owner_id: str, fault: FaultClass = "recipe", code: str = "invalid_recipe") -> None:
    deployment.report(deployment.lease(owner_id), 1, Failed(fault=fault, code=code, message="because"))


def lose(deployment: Deployment, owner_id: str) -> None:
    slow = RetryRules(max_attempts=3, first_wait_seconds=600.0, longest_wait_seconds=600.0)
    held = deployment.lease(owner_id)
    with deployment.database.writing() as session:
        queue.lose(session, held, slow, message="its worker is gone")


def told(http: TestClient, **query: Any) -> Any:
    answer = http.get("/v1/queue", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["id"] for entry in entries]


def test_an_empty_queue(http: TestClient) -> None:
    found = told(http)
    assert set(found["counts"].values()) == {0} and found["object"] == "queue"
    assert found["running"] == found["waiting"] == found["backing_off"] == found["dead"] == found["errors"] == []


def test_everything_stands_where_it_is(http: TestClient, deployment: Deployment, search_id: str) -> None:
    waiting, urgent, running, away, dead = (submit(http, deployment, priority=n) for n in (0, 5, 0, 0, 0))
    deployment.lease(running)
    lose(deployment, away)
    fail(deployment, dead)
    found = told(http)
    assert (found["counts"]["queued"], found["counts"]["running"], found["counts"]["failed"]) == (4, 1, 1)
    assert ids(found["waiting"]) == [urgent, search_id, waiting]
    assert [entry["object"] for entry in found["waiting"]] == ["job", "search", "job"]
    assert ids(found["running"]) == [running] and ids(found["dead"]) == [dead]
    (entry,) = found["backing_off"]
    assert entry["id"] == away and entry["next_attempt_at"] > entry["started_at"]
    assert entry["next_attempt_at"] == http.get(f"/v1/jobs/{away}").json()["next_attempt_at"]
    assert "its worker is gone" in entry["reason"]
    assert ids(told(http, limit=1)["waiting"]) == [urgent]


def test_the_dead_are_told_by_their_error(http: TestClient, deployment: Deployment, search_id: str) -> None:
    first, second = submit(http, deployment), submit(http, deployment)
    fail(deployment, first)
    fail(deployment, second, "out_of_memory", "out_of_memory")
    fail(deployment, search_id, "recipe", "too_many_failed")
    found = told(http)
    assert ids(found["dead"]) == [search_id, second, first], "the latest first"
    assert sorted((each["fault"], each["code"], each["count"]) for each in found["errors"]) == [
        ("out_of_memory", "out_of_memory", 1),
        ("recipe", "invalid_recipe", 1),
        ("recipe", "too_many_failed", 1),
    ]
    error = found["dead"][1]["error"]
    assert (error["fault"], error["retryable"], error["message"]) == ("out_of_memory", False, "because")
    assert ids(told(http, fault="recipe")["dead"]) == [search_id, first]
    assert ids(told(http, code="invalid_recipe")["dead"]) == [first]
    assert ids(http.get("/v1/jobs", params={"status": "failed", "fault": "out_of_memory"}).json()["data"]) == [second]
    assert ids(http.get("/v1/searches", params={"code": "too_many_failed"}).json()["data"]) == [search_id]
    refused = http.get("/v1/queue", params={"fault": "bad_luck"})
    assert refused.status_code == 422 and "out_of_memory" in refused.text


@pytest.fixture
def console(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line that finds the server through the state folder."""
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    for name in ("DRESS_URL", "DRESS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")


def dress(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("console")
def test_one_that_is_refused_keeps_none_of_the_others_dead(http: TestClient, deployment: Deployment) -> None:
    first = submit(http, deployment)
    uploaded = http.post("/v1/datasets?name=mine", content=b"a text", headers={"Content-Type": "text/plain"}).json()
    recipe = deployment.recipe()
    recipe["data"] = {"name": "text", "dataset": uploaded["id"], "samples": 8, "sequence_length": 16}
    last = str(http.post("/v1/jobs", json={"recipe": recipe}).json()["id"])
    for job_id in (first, last):
        fail(deployment, job_id)
    assert http.delete(f"/v1/datasets/{uploaded['id']}").status_code == 204
    tried = dress("retry", "--dead")
    assert tried.exit_code == 1 and tried.stdout == f"{first} queued\n"
    assert last in tried.stderr and "was deleted" in tried.stderr and "1 queued again, 1 refused" in tried.stderr


@pytest.mark.usefixtures("console")
def test_the_dead_are_tried_again_at_once(http: TestClient, deployment: Deployment, search_id: str) -> None:
    wrong, lost = submit(http, deployment), submit(http, deployment)
    fail(deployment, wrong)
    fail(deployment, lost, "out_of_memory", "out_of_memory")
    fail(deployment, search_id)
    shown = dress("queue").stdout
    assert "failed 3" in shown and f"{lost}" in shown and "2 died of invalid_recipe (recipe)" in shown
    assert [each["id"] for each in json.loads(dress("queue", "--fault", "out_of_memory", "--json").stdout)["dead"]] == [
        lost
    ]
    assert dress("retry", "--dead", "--code", "invalid_recipe").stdout == f"{wrong} queued\n{search_id} queued\n"
    assert json.loads(dress("retry", "--dead", "--json").stdout)["data"][0]["id"] == lost
    assert dress("retry", wrong).stdout == f"{wrong} queued\n", "it waits already"
    assert json.loads(dress("retry", "--dead", "--json").stdout)["data"] == []
    for mistaken in (["retry"], ["retry", wrong, "--dead"], ["retry", wrong, "--code", "x"]):
        assert dress(*mistaken).exit_code == 2, mistaken
