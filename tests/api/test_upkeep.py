"""Upkeep over HTTP and from the command line: told beforehand, one at a time, and downloads are left alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from typer.testing import CliRunner, Result

from api.app import create_app
from api.cli import app
from service import upkeep
from service.database.tables import Condemned, Job
from tests.api.conftest import Deployment

FILES = {"model/config.json": b"{}", "model/model.safetensors": b"weights"}
LONG_SECONDS = 10 * 24 * 3600.0


@pytest.fixture
def strict(deployment: Deployment) -> Deployment:
    """A deployment that keeps files for a week, and the newest of each team."""
    policy = {"retention_artifact_days": 7.0, "retention_keep_last": 1}
    deployment.settings = deployment.settings.model_copy(update=policy)
    return deployment


@pytest.fixture
def keeping(strict: Deployment) -> Iterator[TestClient]:
    with TestClient(create_app(strict.settings)) as client:
        client.headers["Authorization"] = f"Bearer {strict.key}"
        yield client


def finished(http: TestClient, deployment: Deployment, **labels: str) -> str:
    job_id = str(http.post("/v1/jobs", json={"recipe": deployment.recipe(), "labels": labels}).json()["id"])
    deployment.succeed(job_id, FILES)
    return job_id


def pass_time(deployment: Deployment) -> None:
    """Ten days, as rows and files can tell."""
    with deployment.database.writing() as session:
        session.execute(update(Job).values(finished_at=Job.finished_at - LONG_SECONDS))
        session.execute(update(Condemned).values(condemned_at=Condemned.condemned_at - LONG_SECONDS))
    for file in deployment.store.root.glob("blobs/??/*"):
        os.utime(file, (time.time(), file.stat().st_mtime - LONG_SECONDS))


def test_files_go_as_the_dry_run_said(keeping: TestClient, strict: Deployment) -> None:
    old, pinned, newest = (finished(keeping, strict, **labels) for labels in ({}, {"keep": "true"}, {}))
    pass_time(strict)
    planned = keeping.post("/v1/retention:run", params={"dry_run": True}).json()
    assert planned["dry_run"] and planned["policy"] == {"artifact_days": 7.0, "row_days": None, "keep_last": 1}
    assert [(each["id"], each["removes"], each["files"], each["size_bytes"]) for each in planned["data"]] == [
        (old, "files", 2, 9)
    ]
    assert len(keeping.get(f"/v1/jobs/{old}/artifacts").json()["data"]) == 2, "this is a download's beginning"
    assert keeping.post("/v1/retention:run").json()["data"] == [], "so it is held"
    with strict.database.writing() as session:
        session.execute(update(Job).values(held_until=None))
    ran = keeping.post("/v1/retention:run").json()
    assert ran["data"] == planned["data"] and not ran["dry_run"]
    job = keeping.get(f"/v1/jobs/{old}").json()
    assert job["artifacts_removed_at"] and job["results"]["dense"]["parameters"] == 100
    gone = keeping.get(f"/v1/jobs/{old}/artifacts/model/config.json")
    assert gone.status_code == 404 and "retention policy" in gone.json()["detail"] and "keep=true" in gone.text
    for kept in (pinned, newest):
        assert keeping.get(f"/v1/jobs/{kept}/artifacts/model/config.json").content == b"{}"


def test_garbage_is_marked_and_then_removed(http: TestClient, deployment: Deployment) -> None:
    kept = finished(http, deployment)
    (stray,) = deployment.stored({"stray": b"nobody's"})
    pass_time(deployment)
    for done in ("marked", "removed"):
        planned = http.post("/v1/garbage:collect", params={"dry_run": True}).json()
        assert planned[done] == [{"sha256": stray.sha256, "size_bytes": 8}] and planned[f"{done}_bytes"] == 8
        ran = http.post("/v1/garbage:collect").json()
        assert {**ran, "dry_run": True} == planned
        pass_time(deployment)
    assert not deployment.store.holds(stray.sha256)
    assert http.get(f"/v1/jobs/{kept}/artifacts/model/model.safetensors").content == b"weights"


@pytest.mark.parametrize("what", ["retention:run", "garbage:collect"])
def test_a_misspelt_rehearsal_is_refused(http: TestClient, what: str) -> None:
    refused = http.post(f"/v1/{what}", params={"dryrun": True})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["parameter"] == "dryrun"
    assert http.post(f"/v1/{what}", params={"dry_run": "perhaps"}).status_code == 422


def test_one_upkeep_at_a_time(http: TestClient, deployment: Deployment) -> None:
    with upkeep.alone(deployment.database):
        for what in ("retention:run", "garbage:collect"):
            refused = http.post(f"/v1/{what}")
            assert refused.status_code == 409 and "under way elsewhere" in refused.json()["detail"]
            assert http.post(f"/v1/{what}", params={"dry_run": True}).status_code == 200, "looking is free"
    assert http.post("/v1/retention:run").status_code == 200


def dress(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_from_the_command_line(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    for name in ("DRESS_URL", "DRESS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")
    deployment.stored({"stray": b"nobody's"})
    pass_time(deployment)
    kept = dress("retention", "--dry-run")
    assert kept.exit_code == 0 and "keeps everything for ever" in kept.stderr
    assert json.loads(dress("retention", "--json").stdout)["data"] == []
    assert "1 files would be marked" in dress("gc", "--dry-run").stdout
    assert json.loads(dress("gc", "--json").stdout)["marked_bytes"] == 8
    assert "1 files marked before wait" in dress("gc").stdout
