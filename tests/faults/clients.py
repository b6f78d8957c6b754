"""The campaign's clients: each has one job in the queue at any time, and asks until it is answered.

A request whose answer never came is sent again under its key. A few jobs are cancelled, some of these tried
again; others are paused and resumed.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.faults.history import History

ENDED = frozenset({"succeeded", "failed", "cancelled"})
_ANSWER_SECONDS = 30.0
_LOOK_SECONDS = 5
_AGAIN_SECONDS = 0.1


@dataclass(frozen=True)
class Service:
    """Where to ask, and how. Shared by all clients."""

    urls: list[str]
    model: str
    """A model folder that recipes may name."""
    http: httpx2.Client


def service_at(urls: list[str], key: str, model: Path) -> Service:
    """The service, for somebody who has a key."""
    limits = httpx2.Limits(max_connections=300, max_keepalive_connections=50)
    headers = {"Authorization": f"Bearer {key}"}
    http = httpx2.Client(headers=headers, timeout=_ANSWER_SECONDS, limits=limits, trust_env=False)
    return Service(urls, str(model), http)


class Client(threading.Thread):
    """Submits one job after the other until told to stop, then sees the last one end."""

    def __init__(self, name: str, service: Service, told: History, no_more: threading.Event, seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self._service, self._told, self._no_more = service, told, no_more
        self._rng = random.Random(seed)
        self._place = self._rng.randrange(len(service.urls))
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Wait no longer for a job to end."""
        self._given_up.set()

    def run(self) -> None:
        number = 0
        while not self._no_more.is_set():
            number += 1
            job_id = self.submit(f"{self.name}-{number}", self._rng.randrange(2**31))
            if job_id is not None:
                self._follow(job_id)

    def submit(self, key: str, seed: int) -> str | None:
        """Queue a job under a key, however often that must be asked; its id."""
        recipe = {"model": {"source": self._service.model}, "method": {"kind": "dress", "ratio": 0.25}, "seed": seed}
        while not self._given_up.is_set():
            api = self._place % len(self._service.urls)
            self._told.add("post", key=key, seed=seed, api=api)
            answer = self._ask("POST", "/v1/jobs", {"recipe": recipe, "metadata": {"key": key}}, key)
            if answer is not None and answer.status_code == 201:
                job_id = str(answer.json()["id"])
                replayed = "Idempotent-Replayed" in answer.headers
                self._told.add("posted", key=key, job=job_id, api=api, replayed=replayed)
                return job_id
            self._told.add("post_unanswered", key=key, status=None if answer is None else answer.status_code)
        return None

    def _follow(self, job_id: str) -> None:
        """Watch a job until it ends, and now and then meddle with it."""
        wish = self._rng.choices(("none", "cancel", "retry", "pause"), weights=(80, 6, 6, 8))[0]
        if wish != "none":
            self._given_up.wait(self._rng.uniform(0.0, 4.0))
        if wish in ("cancel", "retry"):
            self._tell(job_id, "cancel")
        elif wish == "pause" and self._tell(job_id, "pause"):
            self._given_up.wait(self._rng.uniform(0.0, 2.0))
            self._tell(job_id, "resume")
        status = self._until_ended(job_id)
        if wish == "retry" and status == "cancelled" and self._tell(job_id, "retry"):
            status = self._until_ended(job_id)
        self._told.add("seen", job=job_id, status=status)

    def _until_ended(self, job_id: str) -> str:
        """The status in which a job ended; none if nobody waits for it any more."""
        status = ""
        while status not in ENDED and not self._given_up.is_set():
            answer = self._ask("GET", f"/v1/jobs/{job_id}?wait={_LOOK_SECONDS}")
            status = answer.json()["status"] if answer is not None and answer.status_code == 200 else ""
        return status

    def _tell(self, job_id: str, verb: str) -> bool:
        """Have a job cancelled, paused, resumed or tried again; whether that is what the service says."""
        while not self._given_up.is_set():
            self._told.add("wish", job=job_id, verb=verb)
            answer = self._ask("POST", f"/v1/jobs/{job_id}:{verb}")
            if answer is not None and answer.status_code < 500:
                self._told.add("granted", job=job_id, verb=verb, status=answer.status_code)
                return answer.status_code == 200
        return False

    def _ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> httpx2.Response | None:
        """One request; None if no answer came. The next goes to another API."""
        headers = {"Idempotency-Key": key} if key else {}
        url = self._service.urls[self._place % len(self._service.urls)] + path
        try:
            answer = self._service.http.request(method, url, json=body, headers=headers)
        except httpx2.TransportError:
            answer = None
        if answer is None or answer.status_code >= 500:
            self._place += 1
            self._given_up.wait(_AGAIN_SECONDS)
        return answer
