"""Trying again over HTTP and from the command line's client: jobs and searches alike."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from api.client import Client
from api.failures import InConflict
from tests.api.conftest import Deployment
from workers.contracts.events import Failed, Succeeded
from workers.contracts.results import Results

WRONG = Failed(fault="recipe", code="invalid_recipe", message="no")


@pytest.mark.parametrize("kind", ["searches", "jobs"])
def test_what_failed_is_queued_again(
    http: TestClient, search_id: str, job_id: str, deployment: Deployment, kind: str
) -> None:
    owner = {"searches": search_id, "jobs": job_id}[kind]
    deployment.report(deployment.lease(owner), 1, WRONG)
    failed = http.get(f"/v1/{kind}/{owner}")
    assert failed.json()["error"]["code"] == "invalid_recipe"
    again = http.post(f"/v1/{kind}/{owner}:retry")
    told = again.json()
    assert (again.status_code, told["status"], told["error"], told["finished_at"]) == (200, "queued", None, None)
    assert told["id"] == owner and again.headers["ETag"] != failed.headers["ETag"]
    assert http.post(f"/v1/{kind}/{owner}:retry").headers["ETag"] == again.headers["ETag"], "once is enough"
    deployment.report(deployment.lease(owner), 1, Succeeded(results=Results()))
    refused = http.post(f"/v1/{kind}/{owner}:retry")
    assert refused.status_code == 409 and "submit its recipe again" in refused.json()["detail"]
    assert http.post(f"/v1/{kind}/{owner[:4]}_0:retry").status_code == 404


def test_a_follower_sees_the_retry(client: Client, deployment: Deployment) -> None:
    job = client.jobs.submit(deployment.recipe())
    client.jobs.cancel(job.id)
    assert client.jobs.retry(job.id).status == "queued"
    deployment.succeed(job.id)
    types = [event.type for event in client.jobs.events(job.id, follow=True)]
    assert types[1:3] == ["job_cancelled", "job_retried"] and types[-1] == "job_succeeded"
    with pytest.raises(InConflict):
        client.jobs.retry(job.id)
