"""Jobs over HTTP: durable, idempotent, listed, waited for, cancelled."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from fastapi.testclient import TestClient

from tests.api.conftest import Deployment
from workers.contracts.recipe import Recipe


def _body(deployment: Deployment, **more: Any) -> dict[str, Any]:
    return {"recipe": deployment.recipe(), **more}


def test_submit_answers_with_the_whole_job(http: TestClient, deployment: Deployment) -> None:
    body = _body(deployment, metadata={"note": ["any", 1]}, labels={"team": "a"}, priority=3)
    answer = http.post("/v1/jobs", json=body)
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["object"] == "job" and job["id"].startswith("job_") and job["status"] == "queued"
    assert (job["metadata"], job["labels"], job["priority"]) == ({"note": ["any", 1]}, {"team": "a"}, 3)
    assert Recipe.model_validate(job["recipe"]).model_dump(mode="json") == job["recipe"], "every default is spelled out"
    assert datetime.fromisoformat(job["created_at"]).utcoffset() is not None
    seen = http.get(answer.headers["Location"])
    assert seen.json() == job
    assert seen.headers["ETag"] == answer.headers["ETag"]


def test_one_idempotency_key_one_job(http: TestClient, deployment: Deployment) -> None:
    headers = {"Idempotency-Key": "once"}

    def post(_: int) -> Any:
        return http.post("/v1/jobs", json=_body(deployment), headers=headers)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, range(32)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1, "replayed byte for byte"
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers].count(None) == 1
    assert len(http.get("/v1/jobs").json()["data"]) == 1


def test_the_key_with_another_body_is_refused(http: TestClient, deployment: Deployment) -> None:
    headers = {"Idempotency-Key": "once"}
    assert http.post("/v1/jobs", json=_body(deployment), headers=headers).status_code == 201
    answer = http.post("/v1/jobs", json=_body(deployment, priority=1), headers=headers)
    assert answer.status_code == 422
    assert answer.json()["type"].endswith(":idempotency_mismatch")


def test_a_refused_body_does_not_use_up_its_key(http: TestClient, deployment: Deployment) -> None:
    headers = {"Idempotency-Key": "again"}
    assert http.post("/v1/jobs", json={"recipe": deployment.recipe(ratio=2)}, headers=headers).status_code == 422
    assert http.post("/v1/jobs", json=_body(deployment), headers=headers).status_code == 201


def test_list_pages_and_filters(http: TestClient, deployment: Deployment) -> None:
    ids = [http.post("/v1/jobs", json=_body(deployment, labels={"n": str(n % 2)})).json()["id"] for n in range(5)]
    http.post(f"/v1/jobs/{ids[0]}:cancel")
    first = http.get("/v1/jobs", params={"limit": 3}).json()
    rest = http.get("/v1/jobs", params={"limit": 3, "after": first["data"][-1]["id"]}).json()
    assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
    assert [job["id"] for job in first["data"] + rest["data"]] == ids[::-1]

    def found(**query: str) -> list[str]:
        return [job["id"] for job in http.get("/v1/jobs", params=query).json()["data"]]

    assert found(status="cancelled") == [ids[0]]
    assert found(label="n=1") == [ids[3], ids[1]]
    assert found(created_after="2000-01-01T00:00:00Z") == ids[::-1]
    assert found(created_after="2999-01-01T00:00:00Z") == []
    for strange in ({"label": "a\0=b"}, {"after": "job_\0"}):  # nothing has it, and PostgreSQL cannot even look for it
        assert http.get("/v1/jobs", params=strange).status_code in (200, 404, 422)
    assert http.get(f"/v1/jobs/{ids[0]}/events", params={"after": 2**53}).json()["data"] == []


def test_etag_spares_the_body(http: TestClient, job_id: str) -> None:
    etag = http.get(f"/v1/jobs/{job_id}").headers["ETag"]
    same = http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": f'"other", W/{etag}'})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    http.post(f"/v1/jobs/{job_id}:cancel")
    assert http.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": etag}).status_code == 200


def test_wait_returns_on_change(http: TestClient, job_id: str, deployment: Deployment) -> None:
    etag = http.get(f"/v1/jobs/{job_id}").headers["ETag"]
    change = threading.Timer(0.3, deployment.lease, [job_id])
    change.start()
    began = time.monotonic()
    answer = http.get(f"/v1/jobs/{job_id}", params={"wait": 30}, headers={"If-None-Match": etag})
    assert answer.json()["status"] == "running"
    assert time.monotonic() - began < 5
    change.join()


def test_wait_returns_at_once_when_there_is_nothing_to_wait_for(http: TestClient, job_id: str) -> None:
    began = time.monotonic()
    old = http.get(f"/v1/jobs/{job_id}", params={"wait": 30}, headers={"If-None-Match": '"0"'})
    etag = http.post(f"/v1/jobs/{job_id}:cancel").headers["ETag"]
    final = http.get(f"/v1/jobs/{job_id}", params={"wait": 30})
    known = http.get(f"/v1/jobs/{job_id}", params={"wait": 30}, headers={"If-None-Match": etag})
    assert (old.status_code, final.status_code, known.status_code) == (200, 200, 304)
    assert time.monotonic() - began < 5


def test_wait_ends_when_the_time_is_over(http: TestClient, job_id: str) -> None:
    etag = http.get(f"/v1/jobs/{job_id}").headers["ETag"]
    answer = http.get(f"/v1/jobs/{job_id}", params={"wait": 0.2}, headers={"If-None-Match": etag})
    assert answer.status_code == 304
    assert http.get(f"/v1/jobs/{job_id}", params={"wait": 0.2}).status_code == 200


def test_cancel(http: TestClient, job_id: str, deployment: Deployment) -> None:
    answer = http.post(f"/v1/jobs/{job_id}:cancel")
    assert answer.json()["status"] == "cancelled" and answer.json()["finished_at"]
    assert http.post(f"/v1/jobs/{job_id}:cancel").status_code == 200
    other = http.post("/v1/jobs", json=_body(deployment)).json()["id"]
    deployment.succeed(other)
    refused = http.post(f"/v1/jobs/{other}:cancel")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:dress:problem:conflict")


def test_results_and_attempts(http: TestClient, job_id: str, deployment: Deployment) -> None:
    deployment.succeed(job_id)
    job = http.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "succeeded" and job["attempts"] == 1
    assert job["results"] == {"dense": {"parameters": 100, "perplexity": {"wikitext2": 5.5}}}
    [attempt] = http.get(f"/v1/jobs/{job_id}/attempts").json()["data"]
    assert (attempt["object"], attempt["number"], attempt["outcome"]) == ("attempt", 1, "succeeded")
