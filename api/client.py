"""The Python client: jobs and searches over REST, with retries that queue nothing twice and downloads that resume.

from api.client import Client

with Client("http://127.0.0.1:8000", api_key) as client:
    job = client.jobs.submit({"model": {"source": "/models/tiny"}, "method": {"kind": "dress", "ratio": 0.25}})
    for event in client.jobs.events(job.id, follow=True):
        print(event.type)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import IO, Any, Self

import httpx2
import stamina
from pydantic import BaseModel

from api.failures import Unreachable, failure_of
from api.job_client import Jobs
from api.plans import Plan
from api.queue_client import Queue
from api.queued import plain
from api.search_client import Searches
from api.upkeep_client import Upkeep
from api.uploads import Datasets
from workers.comparison.comparison import Comparison

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0

RETRY_SECONDS = 60.0
"""How long to go on trying a server that does not answer."""

PLAN_SECONDS = 600.0
"""The server may read a whole model for a plan."""


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
        self.searches = Searches(self)
        self.datasets = Datasets(self)
        self.queue = Queue(self)
        self.upkeep = Upkeep(self)

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
        answer = self.send("POST", "/v1/jobs:plan", json={"recipe": plain(recipe)}, wait_seconds=PLAN_SECONDS)
        return Plan.model_validate_json(answer.content)

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

    def stream_elsewhere(self, url: str, headers: Mapping[str, str]) -> Any:
        """The same at a signed URL of an object store: by a connection of its own, which knows no API key, and
        through a proxy if the environment names one."""
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        return httpx2.stream("GET", url, headers=dict(headers), timeout=timeout, follow_redirects=True)


def _may_pass(error: Exception) -> bool | float:
    """Whether to try again, or after how many seconds."""
    if isinstance(error, Unreachable):
        return error.retry_after_seconds or True
    return False
