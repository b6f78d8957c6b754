"""The one watch of this process over what is followed: it tells followers when their job has something new.

PostgreSQL tells which jobs have changed as soon as it is committed. Where nobody tells (SQLite, or while that
connection is lost) the versions of the followed jobs are asked for, however many clients follow, in one small question
per interval. Nothing is asked or told while nobody follows. A wake-up says only "look again": followers read by their
job's own gapless numbers, so one too many costs a query, and one missed costs `RECHECK_SECONDS`. Followers of one job
that look for the same share the answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from service import events
from service.database.news import Channel, Listener
from service.database.session import Database

log = logging.getLogger(__name__)

POLL_SECONDS = 0.15
LISTEN_SECONDS = 1.0
"""How long one thread of the pool listens at once."""
RECHECK_SECONDS = 5.0
"""What is followed is looked at so often even while news are told."""

Found = TypeVar("Found")


class Follower:
    """Waits for news of one job."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Let the waiting side look again."""
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Return when there may be news, or after so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(0.0, seconds))
        self._news.clear()


class Tail:
    """Watches while somebody follows. Lives in one event loop."""

    def __init__(self, database: Database, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._news = Listener(database, Channel.JOBS, poll_seconds)
        self._followers: dict[str, set[Follower]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._reading: dict[str, dict[int, asyncio.Future[Any]]] = {}
        self.closing = False
        """The server is shutting down: followers end what they are doing."""

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        """News of one job, from now on. Begin to follow before the first look, else news may fall between."""
        follower = Follower()
        self._followers.setdefault(job_id, set()).add(follower)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            yield follower
        finally:
            followers = self._followers[job_id]
            followers.discard(follower)
            if not followers:
                del self._followers[job_id]

    async def shared(self, job_id: str, after: int, read: Callable[[], Found]) -> Found:
        """What `read`, in a thread, finds of a job after a number; whoever asks for the same meanwhile gets it too.

        A wake-up has later ones read anew, so that nobody is woken for what an older look cannot have seen.
        """
        reading = self._reading.setdefault(job_id, {})
        if after not in reading:
            reading[after] = asyncio.ensure_future(run_in_threadpool(read))
            reading[after].add_done_callback(lambda done: self._forget(job_id, after, done))
        return cast("Found", await asyncio.shield(reading[after]))

    def _forget(self, job_id: str, after: int, done: asyncio.Future[Any]) -> None:
        reading = self._reading.get(job_id, {})
        if reading.get(after) is done:
            del reading[after]
            if not reading:
                del self._reading[job_id]
        if not done.cancelled():
            done.exception()  # whoever asked has been told

    def close(self) -> None:
        """Let every follower end. Streams end whole, so that a graceful shutdown need not wait for them."""
        self.closing = True
        self._news.close()
        self._wake(list(self._followers))

    async def _watch(self) -> None:
        known: dict[str, int] = {}
        looked_at = time.monotonic()
        while self._followers and not self.closing:
            changed = await run_in_threadpool(self._news.wait, LISTEN_SECONDS)
            if changed is None or time.monotonic() - looked_at > RECHECK_SECONDS:
                changed = (changed or set()) | await self._look(known)
                looked_at = time.monotonic()
            self._wake(changed)
            if not self._followers or self.closing:
                await run_in_threadpool(self._news.rest)  # whoever begins to follow meanwhile finds this loop going on

    async def _look(self, known: dict[str, int]) -> set[str]:
        """The followed jobs whose version is another than the known one, which is brought up to date."""
        followed = set(self._followers)
        try:
            found = await run_in_threadpool(self._versions, followed)
        except SQLAlchemyError:
            log.warning("the followed jobs cannot be looked at; trying again", exc_info=True)
            return set()
        changed = {job_id for job_id, version in found.items() if known.get(job_id) != version}
        known.clear()
        known.update(found)
        return changed

    def _versions(self, job_ids: set[str]) -> dict[str, int]:
        with self._database.reading() as session:
            return events.versions(session, job_ids)

    def _wake(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self._reading.pop(job_id, None)
            for follower in self._followers.get(job_id, ()):
                follower.wake()
