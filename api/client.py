"""The Python client: jobs over REST, with retries that queue nothing twice and downloads that resume.

from api.client import Client

with Client("http://127.0.0.1:8000", api_key) as client:
    job = client.jobs.submit({"model": {"source": "/models/tiny"}, "method": {"kind": "dress", "ratio": 0.25}})
    for event in client.jobs.events(job.id, follow=True):
        print(event.type)
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar
from urllib.parse import quote

import httpx2
import stamina
from pydantic import BaseModel

from api.downloads import download_all
from api.failures import Unreachable, failure_of
from api.plans import Plan
from api.schemas import FINAL_STATUSES, Artifact, ArtifactList, Attempt, AttemptList, Event, EventList, Job, JobList
from api.uploads import Datasets
from workers.comparison.comparison import Comparison

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
SILENCE_SECONDS = 40.0
"""A stream says something every 15 s; one that is silent for so long is dead."""

RETRY_SECONDS = 60.0
"""How long to go on trying a server that does not answer."""

PLAN_SECONDS = 600.0
"""The server may read a whole model for a plan."""

PAGE = 200

Body = TypeVar("Body", bound=BaseModel)


class Client:
    """A connection to one server. Safe to share between threads; close it, or use it in a `with`.

    Args:
        url: such as `http://127.0.0.1:8000`.
        api_key: sent with every request.
        retry_seconds: how long to go on trying when the server cannot be reached or says 502, 503, 504.

    Raises (all calls):
        ApiError: see `api.failures` for the tree.
    """

    def __init__(self, url: str, api_key: str, *, retry_seconds: float = RETRY_SECONDS) -> None:
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        headers = {"Authorization": f"Bearer {api_key}"}
        # The service is addressed directly: a proxy from the environment would be shown the key.
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self._retry_seconds = retry_seconds
        self.jobs = Jobs(self)
        self.datasets = Datasets(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def plan(self, recipe: Mapping[str, Any] | BaseModel) -> Plan:
        """What a job would do: stages, what is known already, memory, time, sizes. Queues nothing.

        Raises:
            Invalid: the recipe cannot be run; the error points at each fault.
        """
        body = {"recipe": _plain(recipe)}
        return _read(Plan, self.send("POST", "/v1/jobs:plan", json=body, wait_seconds=PLAN_SECONDS))

    def compare(self, *job_ids: str, labels: Sequence[str] = (), sort: str | None = None) -> Comparison:
        """Jobs side by side, in this order; then those with any of the labels (`study=NAME` gives a study's rows).

        Args:
            sort: a column by whose figures the rows are put in order; `-` before it puts the greatest first.
        Raises:
            Missing: no job has one of the ids.
            Invalid: nothing or too much is named, or `sort` is no column.
        """
        params = {"id": list(job_ids) or None, "label": list(labels) or None, "sort": sort}
        answer = self.send("GET", "/v1/jobs:compare", params=params)
        return Comparison.model_validate_json(answer.content, extra="ignore")  # what a newer server adds

    def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: Callable[[], AbstractContextManager[IO[bytes]]] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float = 0,
    ) -> httpx2.Response:
        """One request that is safe to repeat, repeated until it is answered.

        Args:
            content: opens a body that is sent piece by piece, anew for each try.
        """
        query = {name: value for name, value in (params or {}).items() if value is not None}
        timeout = httpx2.Timeout(ANSWER_SECONDS + wait_seconds, connect=CONNECT_SECONDS)
        for attempt in self.attempts():
            with attempt, nullcontext() if content is None else content() as body:
                try:
                    answer = self._http.request(
                        method,
                        path,
                        json=json,
                        content=body,
                        params=query,
                        headers=dict(headers or {}),
                        timeout=timeout,
                    )
                except httpx2.TransportError as error:
                    raise Unreachable(f"{self._http.base_url} does not answer: {error}") from error
                if answer.is_error:
                    raise failure_of(answer)
        return answer

    def attempts(self) -> Iterator[stamina.Attempt]:
        """Tries with growing pauses, as long as what fails may pass."""
        return iter(stamina.retry_context(_may_pass, attempts=None, timeout=self._retry_seconds, wait_max=3.0))

    def stream(self, path: str, headers: Mapping[str, str], *, silence_seconds: float = ANSWER_SECONDS) -> Any:
        """A request whose answer is read piece by piece; for use in a `with`."""
        timeout = httpx2.Timeout(silence_seconds, connect=CONNECT_SECONDS)
        return self._http.stream("GET", path, headers=dict(headers), timeout=timeout)


class Jobs:
    """What can be done with jobs."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(
        self,
        recipe: Mapping[str, Any] | BaseModel,
        *,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job. Repeated until answered, under one idempotency key, so that one call queues one job.

        Raises:
            Invalid: the recipe cannot be run; the error points at each fault.
        """
        body: dict[str, Any] = {"recipe": _plain(recipe), "priority": priority}
        body |= {name: dict(given) for name, given in (("metadata", metadata), ("labels", labels)) if given}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return _read(Job, self._client.send("POST", "/v1/jobs", json=body, headers=headers))

    def get(self, job_id: str, *, wait: float = 0, etag: str | None = None) -> Job:
        """A job; with `wait` seconds, as soon as it is another than the version `etag` (or than now), or is final."""
        headers = {"If-None-Match": etag} if etag else {}
        params = {"wait": min(wait, 60.0) or None}
        answer = self._client.send("GET", _path(job_id), params=params, headers=headers, wait_seconds=wait)
        if answer.status_code == httpx2.codes.NOT_MODIFIED:
            answer = self._client.send("GET", _path(job_id))
        return _read(Job, answer)

    def list(
        self,
        *,
        limit: int = 50,
        after: str | None = None,
        status: str | None = None,
        label: str | None = None,
        created_after: str | None = None,
    ) -> JobList:
        """Jobs, newest first."""
        params = {"limit": limit, "after": after, "status": status, "label": label, "created_after": created_after}
        return _read(JobList, self._client.send("GET", "/v1/jobs", params=params))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; it may be `cancelling` for a while."""
        return _read(Job, self._client.send("POST", f"{_path(job_id)}:cancel"))

    def attempts(self, job_id: str) -> Sequence[Attempt]:
        """The tries at a job."""
        return _read(AttemptList, self._client.send("GET", f"{_path(job_id)}/attempts")).data

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files that a job left."""
        return _read(ArtifactList, self._client.send("GET", f"{_path(job_id)}/artifacts")).data

    def events(self, job_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Event]:
        """The job's events beyond number `after`, each once, in order.

        With `follow` they go on until the job is final, across broken connections and restarts of the server.
        """
        if follow:
            yield from self._followed(job_id, after)
            return
        has_more = True
        while has_more:
            params = {"after": after, "limit": PAGE}
            page = _read(EventList, self._client.send("GET", f"{_path(job_id)}/events", params=params))
            yield from page.data
            has_more = page.has_more
            after = page.data[-1].number if page.data else after

    def _followed(self, job_id: str, after: int) -> Iterator[Event]:
        fruitless = 0
        while True:
            before = after
            with suppress(Unreachable):
                for event in self._stream(job_id, after):
                    if event.number > after:  # none is told twice, whatever a server repeats
                        after = event.number
                        yield event
            # The job is final, the server restarts or the connection broke. Asking for the job tells which, goes on
            # trying until the server is back, and is the growing pause between connections that bring nothing.
            fruitless = 0 if after > before else fruitless + 1
            job = self.get(job_id, wait=min(0.05 * 2**fruitless, 5.0) if fruitless else 0)
            if job.status in FINAL_STATUSES and after >= job.last_event:
                return

    def _stream(self, job_id: str, after: int) -> Iterator[Event]:
        """One connection's events."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        try:
            with self._client.stream(f"{_path(job_id)}/events", headers, silence_seconds=SILENCE_SECONDS) as answer:
                if answer.is_error:
                    answer.read()
                    raise failure_of(answer)
                if answer.status_code == httpx2.codes.NO_CONTENT:
                    return
                for told in httpx2.EventSource(answer):
                    if told.data:
                        yield Event.model_validate_json(told.data)
        except httpx2.TransportError as error:
            raise Unreachable(f"the event stream broke off: {error}") from error

    def download(self, job_id: str, folder: Path) -> Sequence[Path]:
        """Bring the job's files into a folder, verified; what is there already and right is left alone.

        Raises:
            Corrupt: bytes do not match their digest, or the manifest names a path outside the folder.
        """
        return download_all(self._client, self.artifacts(job_id), folder)


def _plain(recipe: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    return recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else dict(recipe)


def _path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _read(body: type[Body], answer: httpx2.Response) -> Body:
    return body.model_validate_json(answer.content)


def _may_pass(error: Exception) -> bool | float:
    """Whether to try again, or after how many seconds."""
    if isinstance(error, Unreachable):
        return error.retry_after_seconds or True
    return False
