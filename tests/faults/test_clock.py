"""The database's clock can be stepped under the service, and the audit sees leases that are taken too soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, update

from service import queue
from service.database.clock import database_now
from service.database.schema import upgrade
from service.database.session import Database
from service.database.tables import Job
from tests.conftest import BACKENDS
from tests.faults import audit, clock
from tests.faults.history import History, facts
from workers.contracts.recipe import Recipe

RECIPE = Recipe.model_validate({"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}})


@pytest.fixture(params=BACKENDS)
def stepped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, Any]]:
    """An audited database, and what steps its clock."""
    url = f"sqlite:///{tmp_path / 'stepped.sqlite3'}"
    is_sqlite = request.param == "sqlite"
    database = Database(url if is_sqlite else request.getfixturevalue("postgresql_url"))
    upgrade(database)
    audit.watch(database)
    step_file = tmp_path / "ahead"
    step_file.write_text("0", "ascii")
    if is_sqlite:
        event.listen(database.engine, "connect", lambda made, _record: clock.shift_sqlite(made, step_file))
    else:
        with database.connection() as connection:
            clock.prepare_postgresql(connection)
    database.dispose()

    def step(seconds: float) -> None:
        step_file.write_text(str(seconds), "ascii")
        if not is_sqlite:
            with database.connection() as connection:
                clock.step_postgresql(connection, seconds)

    yield database, step
    database.dispose()


def test_the_clock_jumps(stepped: tuple[Database, Any]) -> None:
    database, step = stepped

    def ahead_seconds() -> float:
        with database.reading() as session:
            return float(session.execute(select(database_now())).scalar_one()) - time.time()

    assert ahead_seconds() == pytest.approx(0, abs=60)
    step(-1000.0)
    assert ahead_seconds() == pytest.approx(-1000, abs=60)
    step(1000.0)
    assert ahead_seconds() == pytest.approx(1000, abs=60)


def test_the_audit_tells_a_lease_that_had_expired_from_one_in_force(
    stepped: tuple[Database, Any], tmp_path: Path
) -> None:
    database, step = stepped

    def taken() -> list[dict[str, Any]]:
        told = History(tmp_path / "history.jsonl")
        audit.read_out(database, told)
        told.close()
        return [fact for fact in facts(tmp_path / "history.jsonl") if fact.get("change") == "lease_taken"]

    with database.writing() as session:
        job_id = queue.enqueue(session, recipe=RECIPE, metadata={}, labels={}, priority=0).id
        assert queue.lease(session, job_id, owner="first", seconds=100) is not None
    assert taken() == []
    step(200.0)  # by the stepped clock it has expired
    with database.writing() as session:
        assert queue.adopt(session, job_id, owner="second", seconds=100) is not None
    (fairly,) = taken()
    assert (fairly["before"], fairly["after"]) == ("first", "second") and fairly["until"] <= fairly["moment"]
    with database.writing() as session:
        session.execute(update(Job).values(lease_token="stolen", lease_owner="thief"))
    assert taken()[-1]["after"] == "thief" and taken()[-1]["until"] > taken()[-1]["moment"]
