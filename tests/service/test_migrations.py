"""The schema: steps up and down under rows, races, and versions side by side during an upgrade."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, update
from sqlalchemy.exc import IntegrityError

from service.database.schema import _config, _scripts, head, require_known, upgrade
from service.database.session import Database
from service.database.tables import AcceptedRevision, Base, Job
from service.errors import SchemaOutdated
from tests.service.bench import Bench
from tests.service.deadlines import eventually
from workers.contracts.recipe import Recipe

JOB = {
    "columns": "status, recipe, metadata, labels, priority, created_at, updated_at, version, last_event, attempts, "
    "not_before",
    "values": "'queued', '{\"a\": [1.5, null]}', '{}', '{}', 0, 1.25, 1, 1, 0, 0, 0",
}
ROWS = {
    "0001": [
        f"INSERT INTO jobs (id, {JOB['columns']}) VALUES ('job_1', {JOB['values']})",
        "INSERT INTO job_labels VALUES ('job_1', 'team', 'blue')",
        "INSERT INTO attempts (id, job_id, number, started_at, last_sequence) VALUES ('att_1', 'job_1', 1, 1, 1)",
        "INSERT INTO events (job_id, number, type, at, attempt_id, body) "
        "VALUES ('job_1', 1, 'notice', 1, 'att_1', '{}')",
        "INSERT INTO artifacts VALUES ('job_1', 'model/config.json', 'c', 4294967296, 'att_1', 1)",
        "INSERT INTO api_keys (id, sha256, name, created_at) VALUES ('key_1', 'd', 'x', 1)",
        "INSERT INTO idempotency_keys VALUES ('key_1:a', 'e', '{}', 1)",
    ],
    "0002": [
        "INSERT INTO datasets (id, name, sha256, size_bytes, created_at) VALUES ('dataset_1', 'a', 'b', 1, 1)",
        "INSERT INTO job_datasets VALUES ('job_1', 'dataset_1')",
    ],
    "0003": [
        f"INSERT INTO jobs (id, kind, slots, {JOB['columns']}) VALUES ('search_1', 'search', 2, {JOB['values']})",
        "INSERT INTO searches (id, spec, frontier) VALUES ('search_1', '{}', '[]')",
        "INSERT INTO trials (search_id, number, status, point, reports, created_at) "
        "VALUES ('search_1', 1, 'running', '{}', '[]', 1)",
        "UPDATE jobs SET status = 'failed', error_code = 'worker_lost' WHERE id = 'job_1'",
    ],
}
"""Rows of what each step brings."""
BROUGHT = {
    "0002": ["datasets", "job_datasets"],
    "0003": ["searches", "trials"],
    "0004": ["condemned", "duties"],
    "0005": ["accepted_revisions"],
}


@pytest.fixture
def empty(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database without any table."""
    if backend == "sqlite":
        (tmp_path / "dress.sqlite3").touch()
        made = Database(f"sqlite:///{tmp_path / 'dress.sqlite3'}")
        yield made
        made.dispose()
        return
    cluster = request.getfixturevalue("cluster")
    name = cluster.create()
    made = Database(cluster.url(name))
    yield made
    made.dispose()
    cluster.drop(name)


def step(database: Database, move: Callable[[Config, str], None], to: str) -> None:
    with database.connection() as connection:
        config = _config()
        config.attributes["connection"] = connection
        move(config, to)


def run(database: Database, statement: str) -> list[Any]:
    with database.connection() as connection:
        found = connection.exec_driver_sql(statement)
        return [tuple(row) for row in found] if found.returns_rows else []


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def revisions() -> list[str]:
    """All of them, the first one first."""
    return [script.revision for script in _scripts().walk_revisions()][::-1]


def test_the_migrations_lead_to_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_each_step_goes_up_and_down_under_rows(empty: Database) -> None:
    for revision in revisions():
        step(empty, command.upgrade, revision)
        for statement in ROWS.get(revision, []):
            run(empty, statement)
    require_known(empty)
    assert run(empty, "SELECT kind, slots FROM jobs ORDER BY id") == [("job", 1), ("search", 2)]
    with empty.reading() as session:
        job = session.get_one(Job, "job_1")
        assert job.recipe == {"a": [1.5, None]}
        assert job.error_fault == "transient", "what is known of older failures is told"
    with pytest.raises(IntegrityError):
        run(empty, "DELETE FROM datasets")
    for revision, below in zip(revisions()[:0:-1], revisions()[-2::-1], strict=True):
        step(empty, command.downgrade, below)
        assert not tables(empty) & set(BROUGHT.get(revision, []))
    # All of the first schema is there. What only a newer one knows is gone, the searches' rows in the queue with it.
    assert run(empty, "SELECT id, created_at FROM jobs") == [("job_1", 1.25)]
    assert run(empty, "SELECT job_id, number, attempt_id FROM events") == [("job_1", 1, "att_1")]
    assert run(empty, "SELECT size_bytes FROM artifacts") == [(2**32,)]
    upgrade(empty)
    require_known(empty)
    assert run(empty, "SELECT id, kind FROM jobs") == [("job_1", "job")]
    run(empty, "INSERT INTO events (job_id, number, type, at, body) VALUES ('job_1', 2, 'notice', 1, '{}')")
    assert run(empty, "SELECT number FROM events ORDER BY id") == [(1,), (2,)]
    step(empty, command.downgrade, "base")
    assert tables(empty) == {"alembic_version"}


def test_migrations_may_race(empty: Database) -> None:
    databases, reached = [Database(empty.url) for _ in range(4)], []
    threads = [threading.Thread(target=lambda each=each: reached.append(upgrade(each))) for each in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in databases:
        require_known(database)
        database.dispose()
    assert reached == [head()] * 4


def test_a_missing_or_older_schema_is_refused(empty: Database) -> None:
    with pytest.raises(SchemaOutdated, match="dress migrate"):
        require_known(empty)
    step(empty, command.upgrade, revisions()[-2])
    with pytest.raises(SchemaOutdated, match=f"at revision {revisions()[-2]}, this version needs {head()}"):
        require_known(empty)
    upgrade(empty)
    upgrade(empty)
    require_known(empty)


def test_a_missing_file_is_refused_and_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'dress.sqlite3'}")
    with pytest.raises(SchemaOutdated, match="there is no database"):
        require_known(database)
    upgrade(database)
    require_known(database)
    database.dispose()


def test_every_schema_says_that_its_own_version_may_work_on_it(database: Database) -> None:
    """Else the next migration would stop all processes of this version, before those of the next are there."""
    with database.reading() as session:
        assert session.get(AcceptedRevision, head()) is not None, "the newest migration must enter its revision"


def migrate_to_tomorrow(database: Database, *, accepts_us: bool) -> None:
    """As a version that is not written yet would."""
    run(database, "ALTER TABLE jobs ADD COLUMN of_tomorrow INTEGER NOT NULL DEFAULT 7")
    run(database, "CREATE TABLE of_tomorrow (id INTEGER PRIMARY KEY)")
    run(database, "UPDATE alembic_version SET version_num = 'tomorrow'")
    run(database, "INSERT INTO accepted_revisions VALUES ('tomorrow')")
    if not accepts_us:
        run(database, f"DELETE FROM accepted_revisions WHERE revision = '{head()}'")


def test_this_version_works_on_a_newer_schema_that_accepts_it(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    before = bench.submit(recipe)
    bench.until(before, "running", dispatcher)
    migrate_to_tomorrow(bench.database, accepts_us=True)
    require_known(bench.database)
    assert upgrade(bench.database) == "tomorrow", "and leaves it as it is"
    strange, after = bench.submit(recipe), bench.submit(recipe)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == strange).values(kind="of_tomorrow"))
    (bench.folder / "go").touch()
    bench.until(before, "succeeded", dispatcher)
    bench.until(after, "succeeded", dispatcher)
    eventually(lambda: "another version" in (bench.job(strange).reason or ""), dispatcher.tick)
    assert (bench.job(strange).status, bench.job(strange).attempts) == ("queued", 0), "it is left alone"
    assert run(bench.database, f"SELECT of_tomorrow FROM jobs WHERE id = '{after}'") == [(7,)]


def test_this_version_leaves_a_newer_schema_alone_that_does_not(bench: Bench, recipe: Recipe) -> None:
    migrate_to_tomorrow(bench.database, accepts_us=False)
    for refused in (require_known, upgrade):
        with pytest.raises(SchemaOutdated, match=f"at revision tomorrow, which this version, of revision {head()}"):
            refused(bench.database)
    # A dispatcher that runs meanwhile finds out when its statements fail, and ends.
    job_id = bench.submit(recipe)
    run(bench.database, "ALTER TABLE jobs RENAME COLUMN not_before TO of_tomorrow_too")
    with pytest.raises(SchemaOutdated):
        bench.dispatcher("whole").run_forever(threading.Event())
    run(bench.database, "ALTER TABLE jobs RENAME COLUMN of_tomorrow_too TO not_before")
    assert bench.job(job_id).attempts == 0


def test_dress_migrate_as_a_process(empty: Database, tmp_path: Path) -> None:
    def migrate() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DRESS_STATE_DIR": str(tmp_path / "state"), "DRESS_DATABASE_URL": empty.url}
        command = [sys.executable, "-m", "service.database"]
        return subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path, text=True)

    done = migrate()
    assert done.returncode == 0 and f"at revision {head()}" in done.stderr, done.stderr
    require_known(empty)
    migrate_to_tomorrow(empty, accepts_us=False)
    refused = migrate()
    assert refused.returncode == 1 and "must leave alone" in refused.stderr and "Traceback" not in refused.stderr


def test_without_a_url_the_database_is_a_file_in_the_state_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "DRESS_STATE_DIR": str(tmp_path / "state"), "DRESS_DATABASE_URL": ""}
    done = subprocess.run(
        [sys.executable, "-m", "service.database"], env=environment, capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "state" / "dress.sqlite3").is_file()


def test_a_database_that_does_not_answer_is_said(tmp_path: Path) -> None:
    url = f"postgresql://nobody:secret@/dress?host={tmp_path}"
    for module in ("service.database", "service.dispatch"):
        environment = {**os.environ, "DRESS_STATE_DIR": str(tmp_path / "state"), "DRESS_DATABASE_URL": url}
        done = subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "does not answer" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and "secret" not in done.stderr
