"""Transactions that meet: claims, numbers, keys and room under threads, deadlocks, and a connection that breaks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service import datasets, events, idempotency, jobs, queue
from service.artifacts.stores import open_store
from service.database.session import Database
from service.database.tables import ApiKey, Dataset, Job
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.inline_runner import InlineRunner
from service.dispatch.runner import Capacity
from service.errors import NotFound
from service.settings import Settings
from tests.conftest import BACKENDS
from tests.processes import DEADLINE_SECONDS
from tests.service.bench import Bench
from tests.service.test_datasets import kept
from tests.service.test_queue import enqueue, expire, lease
from workers.contracts.recipe import Recipe

ON_POSTGRESQL = BACKENDS[1:]


def together(count: int, act: Callable[[int], object]) -> None:
    """Act in so many threads that begin at once; what one of them raises is raised here."""
    start, raised = threading.Barrier(count), []

    def begin(number: int) -> None:
        try:
            start.wait(DEADLINE_SECONDS)
            act(number)
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []


def test_numbers_have_no_gaps_whoever_appends(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)

    def append(number: int) -> None:
        for _ in range(5):
            with database.writing() as session:
                events.append_all(session, jobs.get(session, job_id), [("notice", {"of": number})] * 2)

    together(6, append)
    with database.reading() as session:
        told = events.listing(session, job_id, after=0, limit=1000)
        assert [each.number for each in told] == list(range(1, 62)) and jobs.get(session, job_id).last_event == 61


def test_one_key_makes_one_thing(database: Database, recipe: Recipe) -> None:
    answers: list[str] = []

    def ask(_number: int) -> None:
        def make(session: Session) -> str:
            idempotency.claim(session, "key")
            known = idempotency.replay(session, "key", "a" * 64)
            if known is None:
                known = queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0).id
                idempotency.remember(session, "key", "a" * 64, known)
            return known

        answers.append(database.write(make))

    together(20, ask)
    with database.reading() as session:
        assert answers == [session.scalars(select(Job.id)).one()] * 20


def test_a_text_that_is_kept_deleted_and_swept_at_once_has_its_bytes_or_no_row(
    database: Database, settings: Settings
) -> None:
    store = open_store(settings.artifacts_url)

    def act(number: int) -> None:
        for _ in range(4):
            made = kept(database, store)
            if number == 0:
                datasets.sweep(database, store.uploads)
            elif number == 1:
                with contextlib.suppress(NotFound):  # the other's deletion came first: it was the same data set
                    database.write(lambda session, id=made.id: datasets.delete(session, id))

    together(4, act)
    with database.reading() as session:
        alive = session.scalars(select(Dataset).where(Dataset.deleted_at.is_(None))).all()
    assert len(alive) <= 1, "the same bytes under the same name are one data set"
    assert all(store.uploads.holds(each.sha256) for each in alive)


def test_an_expired_lease_is_adopted_once(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    lease(database, job_id)
    expire(database, job_id)
    adopted: list[Any] = []

    def adopt(number: int) -> None:
        with database.writing() as session:
            adopted.append(queue.adopt(session, job_id, owner=str(number), seconds=60))

    together(5, adopt)
    assert len([each for each in adopted if each is not None]) == 1


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
def test_a_job_that_another_leases_is_not_waited_for(database: Database, recipe: Recipe) -> None:
    job_id, other = enqueue(database, recipe), enqueue(database, recipe)
    with database.writing() as first:
        assert queue.lease(first, job_id, owner="one", seconds=15)
        with database.writing() as second:
            second.execute(text("SET LOCAL lock_timeout = '1ms'"))
            assert queue.lease(second, job_id, owner="two", seconds=15) is None
            assert queue.lease(second, other, owner="two", seconds=15)


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
def test_a_deadlock_is_undone_and_tried_again(database: Database) -> None:
    with database.writing() as session:
        session.add_all(ApiKey(id=f"key_{number}", sha256=str(number), name="") for number in range(2))
    met, tries = threading.Barrier(2), []

    def cross(number: int) -> None:
        def write(session: Session) -> None:
            tries.append(number)
            for place, key in enumerate((number, 1 - number)):
                session.execute(update(ApiKey).where(ApiKey.id == f"key_{key}").values(name=ApiKey.name + "x"))
                if place == 0 and tries.count(number) == 1:
                    met.wait(DEADLINE_SECONDS)

        database.write(write)

    together(2, cross)
    assert len(tries) == 3
    with database.reading() as session:
        assert session.scalars(select(ApiKey.name)).all() == ["xx", "xx"]


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
def test_what_a_broken_connection_undid_is_done_once_more(database: Database) -> None:
    tries: list[int] = []

    def write(session: Session) -> None:
        tries.append(session.scalar(text("SELECT pg_backend_pid()")) or 0)
        session.add(ApiKey(id="key_1", sha256="1", name="x"))
        session.flush()
        if len(tries) == 1:
            with database.writing() as other:
                other.execute(select(func.pg_terminate_backend(tries[0])))
            session.execute(select(ApiKey))

    database.write(write)
    assert len(set(tries)) == 2
    with database.reading() as session:
        assert len(session.scalars(select(ApiKey)).all()) == 1


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
def test_a_commit_in_doubt_is_not_repeated(database: Database) -> None:
    """The connection breaks at the commit: it may have been done, and only the caller can tell by looking."""
    tries: list[int] = []

    @event.listens_for(database.engine, "commit")
    def break_off(connection: Any) -> None:
        pid = connection.connection.driver_connection.info.backend_pid
        if pid in tries:
            with Database(database.url).engine.connect() as other:
                other.execute(select(func.pg_terminate_backend(pid)))

    def write(session: Session) -> None:
        tries.append(session.scalar(text("SELECT pg_backend_pid()")) or 0)

    with pytest.raises(OperationalError):
        database.write(write)
    assert len(tries) == 1


def test_two_dispatchers_never_fill_the_same_room(
    bench: Bench, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other is faster between the look at the room and the lease."""
    first = bench.dispatcher("gated")
    ids = [bench.submit(recipe) for _ in range(3)]
    others: list[Any] = []

    def free() -> Capacity:
        if not others:
            with bench.database.writing() as session:
                taken = [queue.lease(session, job_id, owner="other", seconds=60) for job_id in ids[1:]]
            others.extend(taken)
        return bench.runner.total()

    monkeypatch.setattr(bench.runner, "free", free)
    for _ in range(5):
        first.tick()
    assert all(others) and bench.job(ids[0]).status == "queued"
    assert "waits until" in (bench.job(ids[0]).reason or "")


def test_racing_dispatchers_stay_within_the_room(bench: Bench, recipe: Recipe) -> None:
    ids = [bench.submit(recipe) for _ in range(8)]
    dispatchers = [bench.dispatcher("gated") for _ in range(3)]
    for dispatcher in dispatchers:
        dispatcher._runner = InlineRunner(cpus=3)

    def tick(number: int) -> None:
        for _ in range(10):
            dispatchers[number].tick()

    together(3, tick)
    running = [job_id for job_id in ids if bench.job(job_id).status == "running"]
    assert len(running) == 3
    _let_go(dispatchers)


def _let_go(dispatchers: list[Dispatcher]) -> None:
    for dispatcher in dispatchers:
        for attempt_id in dispatcher._runner.attempts():
            dispatcher._runner.stop(attempt_id)
