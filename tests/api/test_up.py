"""`dress up`: everything starts, comes back when it dies, and ends without leaving a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.processes import part, serving, until

IDLE = "import signal, sys; '--stop-ray' in sys.argv or signal.pause()"
SHORT_PAUSES = "up.LONGEST_PAUSE_SECONDS = 0.05"


class Up:
    """One `dress up` in a process of its own. With `dispatcher`, that code runs in its place, without Ray."""

    def __init__(self, state: Path, dispatcher: str | None, *arguments: str) -> None:
        self.state = state
        instead = f"up.DISPATCH = ('-c', {dispatcher!r}); {SHORT_PAUSES}" if dispatcher is not None else "pass"
        code = f"from api import cli, up; {instead}; cli.main()"
        self.log = state.with_suffix(".stderr")
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "up", "--state", str(state), *(arguments or ("--port", "0"))],
                stderr=stderr,
                env={**os.environ, "NO_COLOR": "1"},
            )

    def url(self) -> str:
        """The address, once it is up."""
        file = self.state / "url"
        until(lambda: file.exists() or self.process.poll() is not None, 60)
        return file.read_text("utf-8").strip()

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Exit status and what it said, once it has ended."""
        return self.process.wait(seconds), self.log.read_text("utf-8")

    def family(self) -> list[psutil.Process]:
        """Every other process that serves this state folder."""
        return [each for each in serving(self.state) if each.pid != self.process.pid]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    yield folder
    for process in serving(folder):
        process.kill()


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def test_up_and_down(state: Path) -> None:
    up = Up(state, IDLE)
    url = up.url()
    assert _ready(url)
    assert state.stat().st_mode & 0o777 == 0o700
    key = (state / "api-key").read_text("utf-8").strip()
    assert httpx2.get(f"{url}/v1/jobs").status_code == 401
    assert httpx2.get(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).json()["data"] == []
    assert httpx2.get(f"{url}/healthz", headers={"Host": "evil.example"}).status_code == 421

    status, told = Up(state, IDLE).end()
    assert status == 1 and f"process {up.process.pid}" in up.state.with_suffix(".stderr").read_text("utf-8") + told

    api = part(state, "api")
    assert api is not None
    api.kill()
    assert httpx2.get(f"{url}/readyz", timeout=20).status_code == 200, "callers wait while the API comes back"

    up.process.send_signal(signal.SIGTERM)
    assert up.end()[0] == 0
    assert up.family() == [] and not (state / "url").exists()


def test_interrupt_ends_it_too(state: Path) -> None:
    up = Up(state, IDLE)
    up.url()
    up.process.send_signal(signal.SIGINT)
    assert up.end()[0] == 0 and up.family() == []


def test_a_part_that_keeps_dying_ends_it_with_the_reason(state: Path) -> None:
    up = Up(state, "print('no Ray here'); raise SystemExit(3)")
    status, told = up.end()
    assert status == 1
    assert "dispatch ended with status 3" in told and "giving up" in told and "no Ray here" in told
    assert up.family() == []


def test_its_parts_end_with_it(state: Path) -> None:
    up = Up(state, IDLE)
    up.url()
    assert len(up.family()) == 2
    up.process.kill()
    until(lambda: up.family() == [])


def test_a_taken_port_is_told(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, told = Up(state, IDLE, "--port", str(port)).end()
    assert status == 1 and f"port {port}" in told and "--port" in told and "Traceback" not in told


def test_a_broken_database_is_told(state: Path) -> None:
    state.mkdir()
    (state / "dress.sqlite3").write_bytes(b"not a database" * 100)
    up = Up(state, IDLE)
    status, told = up.end()
    assert status == 1 and "cannot be migrated" in told and "Traceback" not in told.split("migrated")[0]
    assert up.family() == []


@pytest.mark.ray
def test_the_real_thing_leaves_no_process(state: Path) -> None:
    up = Up(state, None)
    url = up.url()

    def has_ray() -> Any:
        return (state / "ray.json").exists() and len(up.family()) > 4

    until(has_ray, 60)
    assert json.loads(httpx2.get(f"{url}/readyz").text) == {"status": "ok"}
    up.process.send_signal(signal.SIGTERM)
    assert up.end(90)[0] == 0
    until(lambda: up.family() == [])
