"""A throwaway PostgreSQL of the tests' own: a cluster in a temporary folder, reached by a Unix socket."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg
import pytest

from tests.processes import until

_USER = "postgres"
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # the machine does not lose power during a test
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, of the newest version that is installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[-3]))
    return versions[-1].parent if versions else None


class Cluster:
    """A PostgreSQL server that may be restarted, or killed, under its clients."""

    def __init__(self) -> None:
        """Skips the test where PostgreSQL is not installed."""
        found = programs()
        if found is None:
            pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql); tests on it are left out")
        self._programs = found
        # PostgreSQL refuses to run as root, and its user could not enter root's temporary folders.
        self._user = _USER if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="dress-pg-"))
        if self._user:
            os.chown(self.folder, pwd.getpwnam(_USER).pw_uid, pwd.getpwnam(_USER).pw_gid)
        self._run("initdb", "-D", "data", "-U", "dress", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, name: str) -> str:
        """Where a database of this name is."""
        return f"postgresql://dress@/{name}?host={self.folder}"

    def create(self, template: str = "template0") -> str:
        """The name of a new database, a copy of another."""
        name = f"dress_{uuid.uuid4().hex}"
        self._tell(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, and whoever is still connected to it."""
        self._tell(f"DROP DATABASE {name} WITH (FORCE)")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", "data", "-k", str(self.folder), *options],
                cwd=self.folder,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                stdout=log,
                stderr=log,
                preexec_fn=_crash_with_parent,
            )
        until(self._answers)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: by SIGINT in order, by SIGQUIT as if it had crashed."""
        assert self._server is not None
        self._server.send_signal(number)
        self._server.wait(60)

    def close(self) -> None:
        """End the server and remove all that it kept."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.folder / "log").read_text("utf-8")
        try:
            self._tell("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _tell(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user="dress", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def _crash_with_parent() -> None:
    """Runs in the new server: a test session that is killed leaves none behind (Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG
