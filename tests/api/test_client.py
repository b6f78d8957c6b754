"""The Python client: retries that queue nothing twice, downloads that resume and trust nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import stamina

from api.client import Client
from api.downloads import download_all
from api.failures import Corrupt, Invalid, KeyRefused, Missing, Refused, Unreachable
from api.schemas import Artifact
from tests.api.conftest import Deployment

BYTES = bytes(range(256)) * 40_000


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """Retries without pauses, as often as it takes."""
    with stamina.set_testing(True, attempts=5):
        yield


def _flaky(client: Client, *outcomes: Any) -> list[httpx2.Request]:
    """Let the next requests fail by these outcomes, after they reached the server where an outcome is "lost"."""
    real, seen, left = client._http._transport, [], list(outcomes)

    class Flaky(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            seen.append(request)
            outcome = left.pop(0) if left else None
            if outcome == "refused":
                raise httpx2.ConnectError("refused")
            if isinstance(outcome, int):
                return httpx2.Response(outcome, text="from a proxy")
            answer = real.handle_request(request)
            if outcome == "lost":
                answer.read()
                raise httpx2.ReadError("broken")
            return answer

    client._http._transport = Flaky()
    return seen


def test_a_post_is_repeated_but_queues_one_job(client: Client, deployment: Deployment) -> None:
    seen = _flaky(client, "refused", "lost", 502, "lost")
    job = client.jobs.submit(deployment.recipe(), labels={"a": "b"})
    assert [each.id for each in client.jobs.list().data] == [job.id]
    assert len({request.headers["Idempotency-Key"] for request in seen[:5]}) == 1


def test_gets_are_repeated(client: Client, deployment: Deployment) -> None:
    job = client.jobs.submit(deployment.recipe())
    _flaky(client, 503, "refused")
    assert client.jobs.get(job.id).id == job.id
    _flaky(client, *["refused"] * 10)
    with pytest.raises(Unreachable, match="does not answer"):
        client.jobs.get(job.id)


def test_refusals_are_not_repeated(client: Client, served: str, deployment: Deployment) -> None:
    seen = _flaky(client)
    with pytest.raises(Invalid) as invalid:
        client.jobs.submit(deployment.recipe(ratio=3))
    assert [item.pointer for item in invalid.value.problem.errors] == ["/recipe/method/ratio"]
    for strange in ("job_0", "../x", "a/b?c", "ä"):
        with pytest.raises(Missing):
            client.jobs.get(strange)
    assert len(seen) == 5
    with Client(served, "wrong") as stranger, pytest.raises(KeyRefused):
        stranger.jobs.list()
    _flaky(client, 418)
    with pytest.raises(Refused, match="418"):
        client.jobs.list()


def test_get_knows_etags_and_waits(client: Client, deployment: Deployment) -> None:
    job = client.jobs.submit(deployment.recipe())
    assert client.jobs.get(job.id, wait=0.1, etag='"2"').id == job.id
    assert client.jobs.cancel(job.id).status == "cancelled"
    assert [event.type for event in client.jobs.events(job.id)] == ["job_queued", "job_cancelled"]
    assert [event.number for event in client.jobs.events(job.id, after=1, follow=True)] == [2]
    assert list(client.jobs.events(job.id, after=9, follow=True)) == []
    assert list(client.jobs.attempts(job.id)) == []


@pytest.fixture
def finished(client: Client, deployment: Deployment) -> str:
    job = client.jobs.submit(deployment.recipe())
    deployment.succeed(job.id, {"model/model.safetensors": BYTES, "model/config.json": b"{}"})
    return job.id


def test_downloads_resume(client: Client, finished: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    part = folder / "model" / "model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BYTES[:1_000_000])
    seen = _flaky(client)
    files = client.jobs.download(finished, folder)
    assert {file.relative_to(folder.resolve()).as_posix(): file.read_bytes() for file in files} == {
        "model/model.safetensors": BYTES,
        "model/config.json": b"{}",
    }
    assert "bytes=1000000-" in [request.headers.get("Range") for request in seen]
    assert not part.exists()


def test_what_is_there_already_is_left_alone(client: Client, finished: str, tmp_path: Path) -> None:
    client.jobs.download(finished, tmp_path / "out")
    seen = _flaky(client)
    client.jobs.download(finished, tmp_path / "out")
    assert len(seen) == 1, "only the manifest"
    (tmp_path / "out/model/config.json").write_bytes(b"[]")
    client.jobs.download(finished, tmp_path / "out")
    assert (tmp_path / "out/model/config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * len(BYTES), b"x" * (len(BYTES) + 1)])
def test_a_stale_part_is_replaced(client: Client, finished: str, tmp_path: Path, stale: bytes) -> None:
    part = tmp_path / "model" / "model.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(stale)
    client.jobs.download(finished, tmp_path)
    assert (tmp_path / "model/model.safetensors").read_bytes() == BYTES


def test_corrupt_bytes_are_not_kept(client: Client, finished: str, deployment: Deployment, tmp_path: Path) -> None:
    stored = deployment.store.path_of(hashlib.sha256(BYTES).hexdigest())
    stored.chmod(0o600)
    stored.write_bytes(BYTES[:-1] + b"!")
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        client.jobs.download(finished, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.safetensors*")) == []


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a\\..\\x", "C:x", "a\0b", "..", "link/x"])
def test_paths_that_lead_outside_are_refused(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    wanted = Artifact(path=path, size_bytes=0, sha256="0" * 64, href="/", created_at=datetime.now(UTC))
    connection: Any = None
    with pytest.raises(Corrupt, match="outside"):
        download_all(connection, [wanted], folder)
    assert list(tmp_path.iterdir()) == [folder]
