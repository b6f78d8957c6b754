"""What a client can do with jobs and searches alike: look, wait, follow, tell, and bring home what they left."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from urllib.parse import quote

import httpx2
import stamina
from pydantic import BaseModel

from api.downloads import download_all
from api.failures import Unreachable, failure_of
from api.schemas import FINAL_STATUSES, Artifact, ArtifactList, Attempt, AttemptList, Event, EventList, Job
from api.searches import QueuedSearch

SILENCE_SECONDS = 40.0
"""A stream says something every 15 s; one that is silent for so long is dead."""

PAGE = 200

Body = TypeVar("Body", bound=BaseModel)
Thing = TypeVar("Thing", Job, QueuedSearch)


class Connection(Protocol):
    """What is needed of the client."""

    def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float = 0,
    ) -> httpx2.Response:
        """One request that is safe to repeat, repeated until it is answered."""
        ...

    def stream(self, path: str, headers: Mapping[str, str], *, silence_seconds: float = SILENCE_SECONDS) -> Any:
        """A request whose answer is read piece by piece."""
        ...

    def stream_elsewhere(self, url: str, headers: Mapping[str, str]) -> Any:
        """The same at another server, which is not shown the API key."""
        ...

    def attempts(self) -> Iterator[stamina.Attempt]:
        """Tries with growing pauses."""
        ...


class Queued(Generic[Thing]):
    """Things of one kind that the server has queued."""

    root: ClassVar[str]
    """Path under which they are found by their ids."""
    body: type[Thing]

    def __init__(self, client: Connection) -> None:
        self._client = client

    def get(self, owner_id: str, *, wait: float = 0, etag: str | None = None) -> Thing:
        """The thing; with `wait` seconds, as soon as it is another than the version `etag` (or than now), or is
        final."""
        headers = {"If-None-Match": etag} if etag else {}
        params = {"wait": min(wait, 60.0) or None}
        answer = self._client.send("GET", self._path(owner_id), params=params, headers=headers, wait_seconds=wait)
        if answer.status_code == httpx2.codes.NOT_MODIFIED:
            answer = self._client.send("GET", self._path(owner_id))
        return read(self.body, answer)

    def pause(self, owner_id: str) -> Thing:
        """Pause it: it frees what it occupies. It may be `pausing` for a while."""
        return self._told(owner_id, "pause")

    def resume(self, owner_id: str) -> Thing:
        """Queue it again once it was paused; it goes on where it was."""
        return self._told(owner_id, "resume")

    def retry(self, owner_id: str) -> Thing:
        """Queue it again once it has failed or was cancelled; it finds what it had finished.

        Raises:
            InConflict: it has succeeded, is paused, or a data set of it was deleted.
        """
        return self._told(owner_id, "retry")

    def attempts(self, owner_id: str) -> Sequence[Attempt]:
        """The tries at it."""
        return read(AttemptList, self._client.send("GET", f"{self._path(owner_id)}/attempts")).data

    def artifacts(self, owner_id: str) -> Sequence[Artifact]:
        """The files that it left."""
        return read(ArtifactList, self._client.send("GET", f"{self._path(owner_id)}/artifacts")).data

    def download(self, owner_id: str, folder: Path) -> Sequence[Path]:
        """Bring its files into a folder, verified; what is there already and right is left alone.

        Raises:
            Corrupt: bytes do not match their digest, or the manifest names a path outside the folder.
        """
        return download_all(self._client, self.artifacts(owner_id), folder)

    def events(self, owner_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Event]:
        """Its events beyond number `after`, each once, in order.

        With `follow` they go on until it is final, across broken connections and restarts of the server.
        """
        if follow:
            yield from self._followed(owner_id, after)
            return
        has_more = True
        while has_more:
            params = {"after": after, "limit": PAGE}
            page = read(EventList, self._client.send("GET", f"{self._path(owner_id)}/events", params=params))
            yield from page.data
            has_more = page.has_more
            after = page.data[-1].number if page.data else after

    def _followed(self, owner_id: str, after: int) -> Iterator[Event]:
        fruitless = 0
        while True:
            before = after
            with suppress(Unreachable):
                for event in self._stream(owner_id, after):
                    if event.number > after:  # none is told twice, whatever a server repeats
                        after = event.number
                        yield event
            # It is final, the server restarts or the connection broke. Asking for it tells which, goes on trying until
            # the server is back, and is the growing pause between connections that bring nothing.
            fruitless = 0 if after > before else fruitless + 1
            thing = self.get(owner_id, wait=min(0.05 * 2**fruitless, 5.0) if fruitless else 0)
            if thing.status in FINAL_STATUSES and after >= thing.last_event:
                return

    def _stream(self, owner_id: str, after: int) -> Iterator[Event]:
        """One connection's events."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        path = f"{self._path(owner_id)}/events"
        try:
            with self._client.stream(path, headers, silence_seconds=SILENCE_SECONDS) as answer:
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

    def _told(self, owner_id: str, word: str) -> Thing:
        """The thing, told to change."""
        return read(self.body, self._client.send("POST", f"{self._path(owner_id)}:{word}"))

    def _path(self, owner_id: str) -> str:
        return f"{self.root}/{quote(owner_id, safe='')}"


def submission(
    metadata: Mapping[str, Any] | None, labels: Mapping[str, str] | None, priority: int, **what: Any
) -> dict[str, Any]:
    """The body of a request that queues something."""
    given = {name: dict(each) for name, each in (("metadata", metadata), ("labels", labels)) if each}
    return {**what, "priority": priority, **given}


def once(idempotency_key: str | None) -> dict[str, str]:
    """The header by which a repeated request queues nothing twice."""
    return {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}


def plain(given: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """A contract, or its plain values, as they are sent."""
    return given.model_dump(mode="json") if isinstance(given, BaseModel) else dict(given)


def read(body: type[Body], answer: httpx2.Response) -> Body:
    """The body of an answer."""
    return body.model_validate_json(answer.content)
