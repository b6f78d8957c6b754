"""Dispatchers in processes of their own, with attempts as their threads, and what their database says of the jobs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

from sqlalchemy import select

from service import events
from service.database.session import Database
from service.database.tables import Attempt, Job
from service.settings import Settings


class Dispatchers:
    """Processes that dispatch, on one database."""

    def __init__(self, database: Database, settings: Settings, pipeline: str) -> None:
        self.database = database
        self._log = settings.state_dir / "dispatch.log"
        self._environment = {
            **os.environ,
            "DRESS_STATE_DIR": str(settings.state_dir),
            "DRESS_DATABASE_URL": settings.database_url,
            "DRESS_PIPELINE": f"tests.service.torchfree_pipelines:{pipeline}",
            "DRESS_LEASE_SECONDS": "2",
            "DRESS_HEARTBEAT_SECONDS": "0.5",
            "DRESS_POLL_SECONDS": "0.1",
            "DRESS_RETRY_SECONDS": "0.1",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, cpus: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "tests.service.inline_dispatch", str(cpus)]
            self.processes.append(subprocess.Popen(command, env=self._environment, stdout=log, stderr=log))
        return self.processes[-1]

    def at_work(self) -> bool:
        """Whether every process has come so far that it dispatches."""
        return len(re.findall(r"dispatcher \S+ begins", self._log.read_text("utf-8"))) >= len(self.processes)

    def jobs(self) -> list[Job]:
        with self.database.reading() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))

    def led_by(self, process: subprocess.Popen[bytes]) -> set[str]:
        """The jobs whose lease this process has."""
        return {job.id for job in self.jobs() if (job.lease_owner or "").split(":")[1:2] == [str(process.pid)]}

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.reading() as session:
            return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)))

    def types(self, job_id: str) -> Counter[str]:
        with self.database.reading() as session:
            told = events.listing(session, job_id, after=0, limit=10_000)
        assert [event.number for event in told] == list(range(1, len(told) + 1))
        return Counter(event.type for event in told)

    def all_succeeded(self) -> bool:
        return {job.status for job in self.jobs()} == {"succeeded"}

    def close(self) -> None:
        """Kill those that still live."""
        for process in self.processes:
            process.kill()
            process.wait()
