"""News of the database: told by PostgreSQL as they are committed, looked for elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from service import events, queue
from service.database.news import Channel, Listener
from service.database.session import Database
from tests.conftest import BACKENDS
from tests.processes import DEADLINE_SECONDS, until
from workers.contracts.recipe import Recipe

ON_POSTGRESQL = BACKENDS[1:]
LONG_SECONDS = 60.0
"""Nobody waits that long in these tests."""


@pytest.fixture
def listener(database: Database) -> Iterator[Listener]:
    made = Listener(database, Channel.JOBS, poll_seconds=0.01)
    yield made
    made.rest()
    made.close()


def enqueue(database: Database, recipe: Recipe) -> str:
    with database.writing() as session:
        return queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0).id


@pytest.mark.parametrize("backend", ["sqlite"])
def test_where_nobody_tells_one_looks(listener: Listener, database: Database, recipe: Recipe) -> None:
    enqueue(database, recipe)
    assert listener.wait(LONG_SECONDS) is None and not listener.is_told


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
def test_news_come_with_the_commit(listener: Listener, database: Database, recipe: Recipe) -> None:
    before = enqueue(database, recipe)
    assert listener.wait(0.0) is None, "what was before may have been missed"
    assert listener.is_told
    with database.writing() as session:
        first = queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0)
        events.append(session, first, "notice", {})
        assert listener.wait(0.05) == set(), "not before the commit"
    assert listener.wait(LONG_SECONDS) == {first.id}
    with pytest.raises(RuntimeError), database.writing() as session:
        queue.cancel(session, before)
        raise RuntimeError
    assert listener.wait(0.05) == set(), "what was rolled back is no news"


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
def test_the_queue_hears_of_statuses_alone(listener: Listener, database: Database, recipe: Recipe) -> None:
    of_queue = Listener(database, Channel.QUEUE, poll_seconds=0.01)
    assert (of_queue.wait(0.0), listener.wait(0.0)) == (None, None)
    job_id = enqueue(database, recipe)
    assert of_queue.wait(LONG_SECONDS) == listener.wait(LONG_SECONDS) == {job_id}
    with database.writing() as session:
        events.append(session, queue.cancel(session, job_id), "notice", {})
    assert of_queue.wait(LONG_SECONDS) == listener.wait(LONG_SECONDS) == {job_id}
    with database.writing() as session:
        queue.explain(session, enqueue(database, recipe), "waits")
    assert len(of_queue.wait(LONG_SECONDS) or ()) == 1, "the new one"
    of_queue.rest()


@pytest.mark.parametrize("backend", ON_POSTGRESQL)
def test_a_lost_connection_is_told_and_replaced(
    listener: Listener, database: Database, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.database.news._AGAIN_SECONDS", 0.0)
    assert listener.wait(0.0) is None
    with database.writing() as session:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        session.execute(text(f"{others} AND datname = current_database()"))
    until(lambda: listener.wait(LONG_SECONDS) is None)  # the server's last words may come first
    assert not listener.is_told
    assert listener.wait(0.0) is None and listener.is_told, "news were missed meanwhile"
    job_id = enqueue(database, recipe)
    assert listener.wait(LONG_SECONDS) == {job_id}


def test_closing_ends_a_wait(database: Database) -> None:
    listener = Listener(database, Channel.JOBS, poll_seconds=LONG_SECONDS)
    listener.wait(0.0)
    thread = threading.Thread(target=listener.wait, args=(LONG_SECONDS,))
    thread.start()
    listener.close()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    listener.rest()
