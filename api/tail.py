"""The one tail of the events table in this process: it tells followers when their job has something new.

However many clients follow, the database is asked one small question per interval, and none while nobody follows. A
wake-up says only "look again": followers read by their job's own gapless numbers, so a wake-up too many costs a query
and one missed costs `RECHECK_SECONDS` (PostgreSQL may commit events out of the order of their global ids).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from service import events
from service.database.session import Database

log = logging.getLogger(__name__)

POLL_SECONDS = 0.15
RECHECK_SECONDS = 5.0
"""A follower looks again after this long even if nobody woke it."""


class Follower:
    """Waits for news of one job."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Let the waiting side look again."""
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Return when there may be news, or after so many seconds (at most `RECHECK_SECONDS`)."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), max(0.0, min(seconds, RECHECK_SECONDS)))
        self._news.clear()


class Tail:
    """Watches the events table while somebody follows. Lives in one event loop."""

    def __init__(self, database: Database, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._followers: dict[str, set[Follower]] = {}
        self._watching: asyncio.Task[None] | None = None
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

    def close(self) -> None:
        """Let every follower end. Streams end whole, so that a graceful shutdown need not wait for them."""
        self.closing = True
        self._wake(list(self._followers))

    async def _watch(self) -> None:
        seen = None
        while self._followers and not self.closing:
            try:
                seen, changed = await run_in_threadpool(self._look, seen)
            except SQLAlchemyError:
                log.warning("the events table cannot be read; trying again", exc_info=True)
            else:
                self._wake(list(self._followers) if changed is None else changed)
            await asyncio.sleep(self._poll_seconds)

    def _look(self, seen: int | None) -> tuple[int, list[str] | None]:
        """The newest event's id and the jobs with events after `seen`; all jobs (None) at the first look."""
        with self._database.reading() as session:
            newest = events.newest_id(session)
            if seen is None:
                return newest, None
            return newest, list(events.jobs_since(session, seen)) if newest > seen else []

    def _wake(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            for follower in self._followers.get(job_id, ()):
                follower.wake()
