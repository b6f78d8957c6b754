"""Answers that were kept for repeated requests, by this version and by an earlier one."""

from __future__ import annotations

import hashlib
import json

from fastapi.testclient import TestClient

from api.idempotency import Made, Repeatable
from service import idempotency
from tests.api.conftest import Deployment


def test_an_answer_that_an_earlier_version_kept_is_given_again(http: TestClient, deployment: Deployment) -> None:
    content = json.dumps({"recipe": deployment.recipe()}).encode()
    digest = hashlib.sha256(b"POST /v1/jobs\n" + content).hexdigest()
    kept = json.dumps({"etag": '"2"', "id": "job_1", "body": '{"id": "job_1"}'})
    with deployment.database.writing() as session:
        from service.database.tables import ApiKey

        key_id = session.query(ApiKey).one().id
        idempotency.remember(session, f"{key_id}:before", digest, kept)
    headers = {"Idempotency-Key": "before", "Content-Type": "application/json"}
    answer = http.post("/v1/jobs", content=content, headers=headers)
    assert (answer.status_code, answer.json()) == (201, {"id": "job_1"})
    assert (answer.headers["Location"], answer.headers["ETag"]) == ("/v1/jobs/job_1", '"2"')
    assert answer.headers["Idempotent-Replayed"] == "true"


def test_without_a_key_nothing_is_kept(deployment: Deployment) -> None:
    repeatable = Repeatable.of("key_1", None, "/v1/things", line="POST /v1/things", content=b"")
    for _ in range(2):
        with deployment.database.writing() as session:
            assert repeatable.earlier(session) is None
            answer = repeatable.remember(session, Made("thing_1", "{}"))
    assert answer.headers["Location"] == "/v1/things/thing_1" and "ETag" not in answer.headers
