"""The schema, the transactions, and that nothing is written which only SQLite can do."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from service.database.clock import database_now
from service.database.schema import _config, require_known, upgrade
from service.database.session import Database
from service.database.tables import ApiKey, Base, Job, new_id
from service.errors import SchemaOutdated


def test_the_migrations_lead_to_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_only_the_newest_schema_is_accepted(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'dress.sqlite3'}")
    with pytest.raises(SchemaOutdated, match="dress migrate"):
        require_known(database)
    upgrade(database)
    upgrade(database)
    require_known(database)
    with database.connection() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of tomorrow'"))
    with pytest.raises(SchemaOutdated, match="of tomorrow"):
        require_known(database)
    database.dispose()


def test_steps_go_up_and_down_under_rows(tmp_path: Path) -> None:
    """A job of the first schema outlives the step to data sets and back; what only the newer one knows goes."""
    database = Database(f"sqlite:///{tmp_path / 'dress.sqlite3'}")

    def step(move: Callable[[Config, str], None], to: str) -> None:
        with database.connection() as connection:
            config = _config()
            config.attributes["connection"] = connection
            move(config, to)

    def run(statement: str) -> list[Any]:
        with database.connection() as connection:
            found = connection.execute(text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []

    step(command.upgrade, "0001")
    texts, numbers = "recipe, metadata, labels", "priority, created_at, updated_at, version, last_event, attempts"
    values = "'job_1', 'queued', '{}', '{}', '{}', 0, 1, 1, 1, 0, 0, 0"
    run(f"INSERT INTO jobs (id, status, {texts}, {numbers}, not_before) VALUES ({values})")
    step(command.upgrade, "0002")
    run("INSERT INTO datasets (id, name, sha256, size_bytes, created_at) VALUES ('dataset_1', 'a', 'b', 1, 1)")
    run("INSERT INTO job_datasets VALUES ('job_1', 'dataset_1')")
    with pytest.raises(IntegrityError):
        run("DELETE FROM datasets")
    step(command.downgrade, "0001")
    assert run("SELECT id, status FROM jobs") == [("job_1", "queued")]
    assert run("SELECT name FROM sqlite_master WHERE name LIKE '%datasets%'") == []
    step(command.upgrade, "0003")
    run("UPDATE jobs SET status = 'failed', error_code = 'worker_lost'")
    step(command.upgrade, "0004")
    assert run("SELECT error_fault FROM jobs") == [("transient",)], "what is known of older failures is told"
    step(command.downgrade, "0003")
    upgrade(database)
    require_known(database)
    assert run("SELECT id FROM jobs") == [("job_1",)] and run("SELECT id FROM datasets") == []
    database.dispose()


def test_migrations_may_race(tmp_path: Path) -> None:
    databases = [Database(f"sqlite:///{tmp_path / 'dress.sqlite3'}") for _ in range(3)]
    threads = [threading.Thread(target=upgrade, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in databases:
        require_known(database)
        database.dispose()


def test_dress_migrate_as_a_process(tmp_path: Path) -> None:
    environment = {**os.environ, "DRESS_STATE_DIR": str(tmp_path / "state"), "DRESS_DATABASE_URL": ""}
    done = subprocess.run(
        [sys.executable, "-m", "service.database"], env=environment, capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "state" / "dress.sqlite3").is_file()


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


def test_ids_are_prefixed_and_differ() -> None:
    assert new_id("job").startswith("job_") and new_id("job") != new_id("job")
    assert len(new_id("job")) <= Job.__table__.c.id.type.length
