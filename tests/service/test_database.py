"""The transactions and the clock, and that nothing is written which only SQLite can do."""

import threading
import time

import psycopg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateTable

from service.database import locks
from service.database import session as session_module
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import ApiKey, Base, Job, new_id


def test_every_table_and_the_clock_exist_for_postgresql() -> None:
    dialect = postgresql.dialect()
    for table in Base.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
    assert "clock_timestamp" in str(select(database_now()).compile(dialect=dialect))


def test_the_clock_counts_seconds_since_1970(database: Database) -> None:
    before = time.time()
    with database.reading() as session:
        told = session.execute(select(database_now())).scalar_one()
    assert before - 0.001 <= told <= time.time() + 0.001  # to the millisecond


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.writing() as session:
        session.add(ApiKey(id=new_id("key"), sha256="0" * 64, name="x"))
        session.flush()
        raise RuntimeError
    with database.reading() as session:
        assert session.scalars(select(ApiKey)).all() == []


def test_reading_writes_nothing_and_its_rows_outlive_it(database: Database) -> None:
    with database.writing() as session:
        session.add(ApiKey(id="key_1", sha256="0" * 64, name="before"))
    with database.reading() as session:
        key = session.get_one(ApiKey, "key_1")
        key.name = "after"
        session.flush()
    assert key.created_at > 0
    with database.reading() as session:
        assert session.get_one(ApiKey, "key_1").name == "before"


def test_writers_of_one_row_wait_for_each_other(database: Database) -> None:
    with database.writing() as session:
        session.add(ApiKey(id="key_1", sha256="0" * 64, name="a"))
    inside, others = threading.Event(), []

    def write() -> None:
        inside.wait(20)
        with database.writing() as session:
            session.execute(update(ApiKey).values(name=ApiKey.name + "c"))
            others.append(session.scalar(select(ApiKey.name)))

    thread = threading.Thread(target=write)
    thread.start()
    with database.writing() as session:
        session.execute(update(ApiKey).values(name=ApiKey.name + "b"))
        inside.set()
        thread.join(0.1)
        assert others == []
    thread.join()
    assert others == ["abc"]


def test_a_lock_that_was_waited_for_in_vain_is_asked_for_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time-out is longer than the patience with a database that is away."""
    monkeypatch.setattr(session_module, "PATIENCE_SECONDS", 0.001)
    tries: list[int] = []

    def work(session: Session, times: int) -> str:
        tries.append(times)
        if len(tries) <= times:
            raise OperationalError("", {}, psycopg.errors.LockNotAvailable())
        return "done"

    assert database.write(lambda session: work(session, 2)) == "done" and len(tries) == 3
    tries.clear()
    with pytest.raises(OperationalError):
        database.write(lambda session: work(session, 1000))
    assert len(tries) == 4


def test_a_reader_sees_one_state(database: Database) -> None:
    with database.reading() as before:
        assert before.scalars(select(ApiKey)).all() == []
        with database.writing() as session:
            session.add(ApiKey(id="key_1", sha256="0" * 64, name="new"))
        assert before.scalars(select(ApiKey)).all() == []


def test_references_are_kept(database: Database) -> None:
    with pytest.raises(IntegrityError), database.writing() as session:
        session.execute(text("INSERT INTO job_labels (job_id, key, value) VALUES ('job_none', 'a', 'b')"))


@pytest.mark.parametrize("backend", ["sqlite"])
def test_sqlite_is_durable(database: Database) -> None:
    with database.reading() as session:
        names = ("journal_mode", "synchronous")
        found = {name: session.execute(text(f"PRAGMA {name}")).scalar_one() for name in names}
    assert found == {"journal_mode": "wal", "synchronous": 2}


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_nobody_waits_for_ever_on_postgresql(database: Database) -> None:
    wanted = {
        "transaction_isolation": "read committed",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "30s",
        "application_name": "dress",
    }
    with database.writing() as session:
        assert {name: session.scalar(text(f"SHOW {name}")) for name in wanted} == wanted
        locks.allow_silence(session, 600)
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "10min"
    with database.writing() as session:
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "30s", "of that transaction alone"


def test_ids_are_prefixed_and_differ() -> None:
    assert new_id("job").startswith("job_") and new_id("job") != new_id("job")
    assert len(new_id("job")) <= Job.__table__.c.id.type.length
