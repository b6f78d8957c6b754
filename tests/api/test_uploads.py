"""Uploads by the client, on the command line, and over connections that break."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from typer.testing import CliRunner, Result

from api.cli import app
from api.client import Client
from api.failures import InConflict, Invalid, Missing, Refused
from tests.api.conftest import Deployment
from tests.processes import until

TEXT = "Größe, naïve, 東京.\n\nWhat every layer reads, nobody needs.\n"
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()


def test_what_breaks_off_leaves_nothing(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.datasets._PIECE_BYTES", 1)
    host, port = served.removeprefix("http://").split(":")
    head = (
        f"POST /v1/datasets?name=a HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {deployment.key}\r\n"
        "Content-Type: text/plain\r\nContent-Length: 1000\r\n\r\nonly the beginning"
    )
    drafts = deployment.store.root / "drafts"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode())
        until(lambda: [file for file in drafts.glob("*") if file.exists()])
    until(lambda: not list(drafts.glob("*")))
    assert not list((deployment.store.root / "uploads").glob("*"))
    headers = {"Authorization": f"Bearer {deployment.key}"}
    assert httpx2.get(f"{served}/v1/datasets", headers=headers).json()["data"] == []


def test_the_client(client: Client, deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text(TEXT, "utf-8")
    made = client.datasets.upload(file)
    assert (made.name, made.sha256) == ("own.txt", DIGEST)
    assert client.datasets.upload(file) == made == client.datasets.get(made.id)
    assert client.datasets.list(name="own.txt").data == [made]
    data = {"name": "text", "dataset": made.id}
    job = client.jobs.submit({**deployment.recipe(), "data": data})
    with pytest.raises(InConflict, match=job.id):
        client.datasets.delete(made.id)
    client.jobs.cancel(job.id)
    client.datasets.delete(made.id)
    with pytest.raises(Missing):
        client.datasets.get(made.id)
    file.write_bytes(b"\xff")
    with pytest.raises(Invalid, match="at byte 0"):
        client.datasets.upload(file)


def test_a_large_upload_is_refused_in_words(deployment: Deployment, tmp_path: Path, served: str) -> None:
    """While the client is still sending."""
    file = tmp_path / "large.txt"
    file.write_bytes(b"\xff" + b"0123456789abcde\n" * 2**20)
    with Client(served, deployment.key, retry_seconds=0.1) as client, pytest.raises(Refused, match="at byte 0"):
        client.datasets.upload(file)


@pytest.fixture
def text(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A text, and a command line that finds the server."""
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    monkeypatch.delenv("DRESS_URL", raising=False)
    monkeypatch.delenv("DRESS_API_KEY", raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")
    file = tmp_path / "own.txt"
    file.write_text(TEXT, "utf-8")
    return file


def dress(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands(text: Path, deployment: Deployment, tmp_path: Path) -> None:
    done = dress("datasets", "upload", text)
    assert done.exit_code == 0 and DIGEST in done.stderr
    made = done.stdout.strip()
    assert json.loads(dress("datasets", "upload", text, "--name", "b", "--json").stdout)["name"] == "b"
    listed = dress("datasets").stdout
    assert made in listed and "own.txt" in listed and DIGEST[:12] in listed
    assert [each["id"] for each in json.loads(dress("datasets", "--name", "own.txt", "--json").stdout)["data"]] == [
        made
    ]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**deployment.recipe(), "data": {"name": "text", "dataset": made}}), "utf-8")
    assert dress("submit", recipe).exit_code == 0
    refused = dress("datasets", "rm", made)
    assert refused.exit_code == 1 and "is in use by job_" in refused.stderr
    assert dress("datasets", "rm", "dataset_0").exit_code == 1
    assert dress("datasets", "upload", tmp_path / "none").exit_code == 1
