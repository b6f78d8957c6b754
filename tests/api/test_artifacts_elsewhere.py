"""Artifacts in an object store: callers are sent there by signed URLs, or get the bytes through the API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.client import Client
from api.failures import Corrupt
from tests.api.conftest import Deployment
from tests.api.ranges import check_range
from tests.object_server import CutShort, Forbidden, ObjectServer, Reset, Times

BYTES = bytes(range(256)) * 5
DIGEST = hashlib.sha256(BYTES).hexdigest()
FILES = {"model/model.safetensors": BYTES, "model/config.json": b"{}", "model/empty.txt": b""}


@pytest.fixture(params=[3600.0])
def signed_url_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.param)


through_here = pytest.mark.parametrize("signed_url_seconds", [0.0], indirect=True)


@pytest.fixture
def deployment(tmp_path: Path, bucket_url: str, signed_url_seconds: float) -> Iterator[Deployment]:
    made = Deployment(tmp_path, artifacts_url=bucket_url, signed_url_seconds=signed_url_seconds)
    yield made
    made.database.dispose()


@pytest.fixture
def url(http: TestClient, job_id: str, deployment: Deployment) -> str:
    deployment.succeed(job_id, FILES)
    http.follow_redirects = False
    return f"/v1/jobs/{job_id}/artifacts"


@pytest.fixture
def finished(client: Client, deployment: Deployment) -> str:
    """A job that left files, at a real server."""
    job = client.jobs.submit(deployment.recipe())
    deployment.succeed(job.id, FILES)
    return job.id


def test_a_download_is_sent_to_the_store(http: TestClient, url: str, object_server: ObjectServer) -> None:
    answer = http.get(f"{url}/model/model.safetensors")
    assert answer.status_code == 307 and answer.headers["Cache-Control"] == "no-store"
    place = answer.headers["Location"]
    assert place.startswith(object_server.endpoint)
    assert httpx2.get(place, trust_env=False, timeout=60).content == BYTES
    ranged = httpx2.get(place, headers={"Range": "bytes=10-19"}, trust_env=False, timeout=60)
    assert (ranged.status_code, ranged.content) == (206, BYTES[10:20])


def test_what_needs_no_bytes_is_answered_here(http: TestClient, url: str) -> None:
    path = f"{url}/model/model.safetensors"
    head = http.head(path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(BYTES)))
    assert head.headers["ETag"] == f'"{DIGEST}"' and head.headers["Accept-Ranges"] == "bytes"
    assert http.get(path, headers={"If-None-Match": head.headers["ETag"]}).status_code == 304
    beyond = http.get(path, headers={"Range": "bytes=9000-"})
    assert beyond.status_code == 416 and beyond.headers["Content-Range"] == f"bytes */{len(BYTES)}"
    assert http.get(f"{url}/model/nothing").status_code == 404


def test_bytes_that_the_store_lost(http: TestClient, url: str, deployment: Deployment) -> None:
    deployment.store._bucket.delete(f"blobs/{DIGEST[:2]}/{DIGEST}")
    answer = http.get(f"{url}/model/model.safetensors")
    assert answer.status_code == 500 and answer.json()["type"].endswith(":artifact_missing")


def test_a_store_that_is_silent_is_told(http: TestClient, url: str, object_server: ObjectServer) -> None:
    object_server.fault = Times(1000, Forbidden, "HEAD", "blobs")
    answer = http.get(f"{url}/model/model.safetensors")
    assert answer.status_code == 503 and "artifact store" in answer.json()["detail"]
    assert object_server.endpoint not in answer.text and "AWS" not in answer.text


@through_here
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(first=st.integers(0, 2 * len(BYTES)), length=st.integers(0, 2 * len(BYTES)), form=st.sampled_from("abc"))
def test_any_range_is_the_slice(http: TestClient, url: str, first: int, length: int, form: str) -> None:
    check_range(http, f"{url}/model/model.safetensors", BYTES, (first, length, form))


@through_here
def test_a_download_through_here_says_what_it_is(http: TestClient, url: str) -> None:
    path = f"{url}/model/model.safetensors"
    whole = http.get(path)
    assert (whole.status_code, whole.content) == (200, BYTES)
    assert whole.headers["ETag"] == f'"{DIGEST}"' and whole.headers["Content-Length"] == str(len(BYTES))
    assert whole.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'
    head = http.head(path)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(BYTES)))

    def ranged(**headers: str) -> Any:
        return http.get(path, headers=headers)

    assert ranged(**{"Range": "bytes=10-", "If-Range": whole.headers["ETag"]}).content == BYTES[10:]
    assert ranged(**{"Range": "bytes=10-", "If-Range": '"another"'}).content == BYTES
    assert ranged(Range="bytes=0-1, 10-11").content == BYTES, "of several ranges none"
    assert ranged(Range="lines=1-2").content == BYTES
    empty = http.get(f"{url}/model/empty.txt")
    assert (empty.status_code, empty.content) == (200, b"")


@pytest.mark.parametrize("signed_url_seconds", [3600.0, 0.0], indirect=True)
def test_the_client_brings_all_home(client: Client, finished: str, tmp_path: Path) -> None:
    client.jobs.download(finished, tmp_path / "home")
    for path, content in FILES.items():
        assert (tmp_path / "home" / path).read_bytes() == content


def test_the_client_goes_on_where_it_was_and_shows_its_key_to_nobody(
    client: Client, finished: str, object_server: ObjectServer, tmp_path: Path
) -> None:
    part = tmp_path / "home" / "model" / "model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BYTES[:1000])
    object_server.requests.clear()
    client.jobs.download(finished, tmp_path / "home")
    assert (tmp_path / "home" / "model" / "model.safetensors").read_bytes() == BYTES
    reads = object_server.asked("GET", DIGEST)
    assert [each.byte_range for each in reads] == ["bytes=1000-"]
    assert all(each.authorization is None for each in object_server.asked("GET", "X-Amz-Signature"))


@pytest.mark.parametrize("kind", [Reset, CutShort, Forbidden])
def test_the_client_survives_a_store_that_fails(
    client: Client, finished: str, object_server: ObjectServer, tmp_path: Path, kind: type[Exception]
) -> None:
    object_server.fault = fault = Times(2, kind, "GET", DIGEST)
    client.jobs.download(finished, tmp_path / "home")
    assert (tmp_path / "home" / "model" / "model.safetensors").read_bytes() == BYTES and fault.left == 0


def test_the_client_keeps_no_damaged_file(
    client: Client, finished: str, deployment: Deployment, tmp_path: Path
) -> None:
    deployment.store._bucket.write(f"blobs/{DIGEST[:2]}/{DIGEST}", BYTES[::-1])
    with pytest.raises(Corrupt, match=DIGEST):
        client.jobs.download(finished, tmp_path / "home")
    assert not list((tmp_path / "home").rglob("model.safetensors*"))


def test_uploaded_texts_lie_there_too(http: TestClient, deployment: Deployment) -> None:
    uploads, text = deployment.store.uploads, "What every layer reads.\n\n" * 50
    made = http.post("/v1/datasets?name=own", content=text, headers={"Content-Type": "text/plain"}).json()
    assert uploads.holds(made["sha256"])
    recipe = {**deployment.recipe(), "data": {"name": "text", "dataset": made["id"]}}
    job = http.post("/v1/jobs", json={"recipe": recipe}).json()
    assert job["recipe"]["data"]["dataset_sha256"] == made["sha256"]
    http.post(f"/v1/jobs/{job['id']}:cancel")
    assert http.delete(f"/v1/datasets/{made['id']}").status_code == 204
    assert not uploads.holds(made["sha256"])
    refused = http.post("/v1/datasets?name=own", content=b"caf\xe9", headers={"Content-Type": "text/plain"})
    assert refused.status_code == 422 and list(deployment.store._bucket.listed("incoming")) == []


def test_an_upload_that_the_store_refuses_is_told(
    http: TestClient, deployment: Deployment, object_server: ObjectServer
) -> None:
    object_server.fault = Times(1000, Forbidden, "PUT", "incoming")
    answer = http.post("/v1/datasets?name=own", content="text", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 503 and "artifact store" in answer.json()["detail"]
    assert http.get("/v1/datasets").json()["data"] == []
