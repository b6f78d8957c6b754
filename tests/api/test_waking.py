"""The watch over what is followed: woken by what PostgreSQL tells, or by looking, whatever the order of the commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from starlette.concurrency import run_in_threadpool

from api import tail as tails
from api.tail import Tail
from service import events, queue
from service.database.news import Listener
from service.database.session import Database
from tests.api.conftest import Deployment
from tests.conftest import BACKENDS
from tests.processes import DEADLINE_SECONDS
from workers.contracts.recipe import Recipe

ON_POSTGRESQL = BACKENDS[1:]
LONG_SECONDS = 600.0


@pytest.fixture(autouse=True)
def _only_news_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "RECHECK_SECONDS", LONG_SECONDS)


def _queued(deployment: Deployment) -> str:
    with deployment.database.writing() as session:
        recipe = Recipe.model_validate(deployment.recipe())
        return queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0).id


def _note(database: Database, job_id: str) -> None:
    with database.writing() as session:
        events.append(session, queue.reread(session, job_id), "notice", {})


async def _is_woken(tail: Tail, job_id: str, act: Callable[[], None]) -> None:
    with tail.follow(job_id) as follower:
        await follower.wait(LONG_SECONDS)  # the first look wakes everybody
        await run_in_threadpool(act)
        await asyncio.wait_for(follower.wait(LONG_SECONDS), DEADLINE_SECONDS)
    tail.close()


def test_a_change_wakes_its_followers(deployment: Deployment) -> None:
    job_id = _queued(deployment)
    tail = Tail(deployment.database, poll_seconds=0.02)
    asyncio.run(_is_woken(tail, job_id, lambda: _note(deployment.database, job_id)))


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
@pytest.mark.parametrize("is_told", [True, False])
def test_what_is_committed_out_of_order_wakes_too(
    deployment: Deployment, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower's event has a smaller id than another job's, and is visible later."""
    if not is_told:
        monkeypatch.setattr(Listener, "_begin", lambda _self: False)
    job_id, other = _queued(deployment), _queued(deployment)

    def commit_in_reverse() -> None:
        with deployment.database.writing() as session:
            events.append(session, queue.reread(session, job_id), "notice", {})
            _note(deployment.database, other)

    tail = Tail(deployment.database, poll_seconds=LONG_SECONDS if is_told else 0.02)
    asyncio.run(_is_woken(tail, job_id, commit_in_reverse))


def test_nobody_watches_for_nobody(deployment: Deployment) -> None:
    job_id = _queued(deployment)
    tail = Tail(deployment.database, poll_seconds=0.02)

    async def follow_twice() -> None:
        for _ in range(2):
            with tail.follow(job_id) as follower:
                await follower.wait(LONG_SECONDS)
            assert tail._watching is not None
            await asyncio.wait_for(tail._watching, DEADLINE_SECONDS)
            assert not tail._news.is_told, "news that nobody reads would pile up"

    asyncio.run(follow_twice())
    tail.close()
