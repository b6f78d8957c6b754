"""Artifacts: the manifest and downloads with ranges, digests and conditions."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Deployment
from tests.api.ranges import check_range

BYTES = bytes(range(256)) * 5
FILES = {"model/model.safetensors": BYTES, "model/config.json": b"{}", "model/empty.txt": b""}


@pytest.fixture
def url(http: TestClient, job_id: str, deployment: Deployment) -> str:
    deployment.succeed(job_id, FILES)
    return f"/v1/jobs/{job_id}/artifacts"


def test_the_manifest(http: TestClient, url: str) -> None:
    manifest = http.get(url).json()
    assert [item["path"] for item in manifest["data"]] == sorted(FILES)
    for item in manifest["data"]:
        content = FILES[item["path"]]
        assert item["size_bytes"] == len(content) and item["sha256"] == hashlib.sha256(content).hexdigest()
        assert http.get(item["href"]).content == content


def test_a_download_says_what_it_is(http: TestClient, url: str) -> None:
    answer = http.get(f"{url}/model/model.safetensors")
    digest = hashlib.sha256(BYTES)
    assert answer.content == BYTES
    assert answer.headers["ETag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    head = http.head(f"{url}/model/model.safetensors")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(BYTES)))
    known = http.get(f"{url}/model/model.safetensors", headers={"If-None-Match": answer.headers["ETag"]})
    assert (known.status_code, known.content) == (304, b"")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(first=st.integers(0, 2 * len(BYTES)), length=st.integers(0, 2 * len(BYTES)), form=st.sampled_from("abc"))
def test_any_range_is_the_slice(http: TestClient, url: str, first: int, length: int, form: str) -> None:
    check_range(http, f"{url}/model/model.safetensors", BYTES, (first, length, form))


def test_several_ranges(http: TestClient, url: str) -> None:
    answer = http.get(f"{url}/model/model.safetensors", headers={"Range": "bytes=0-1, 9000-, 10-11"})
    assert answer.status_code == 206 and answer.headers["Content-Type"].startswith("multipart/byteranges")
    assert BYTES[0:2] in answer.content and BYTES[10:12] in answer.content


UNREADABLE = ["bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "lines=1-2", "bytes 1-2", "bytes=1-2,"]


@pytest.mark.parametrize("asked", UNREADABLE)
def test_a_range_that_cannot_be_read_is_ignored(http: TestClient, url: str, asked: str) -> None:
    answer = http.get(f"{url}/model/model.safetensors", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, BYTES)


def test_if_range(http: TestClient, url: str) -> None:
    path = f"{url}/model/model.safetensors"
    full = http.get(path)

    def ranged(validator: str) -> Any:
        return http.get(path, headers={"Range": "bytes=10-", "If-Range": validator}).status_code

    assert ranged(full.headers["ETag"]) == 206
    assert ranged('"another"') == 200
    assert ranged("W/" + full.headers["ETag"]) == 200
    assert ranged(full.headers["Last-Modified"]) == 200


def test_an_empty_file(http: TestClient, url: str) -> None:
    answer = http.get(f"{url}/model/empty.txt")
    assert (answer.status_code, answer.content) == (200, b"")
    assert http.get(f"{url}/model/empty.txt", headers={"Range": "bytes=0-"}).status_code == 416


def test_bytes_that_the_store_lost(http: TestClient, url: str, deployment: Deployment) -> None:
    deployment.store.path_of(hashlib.sha256(BYTES).hexdigest()).unlink()
    answer = http.get(f"{url}/model/model.safetensors")
    assert answer.status_code == 500 and answer.json()["type"].endswith(":artifact_missing")
