"""Attempts that store, publish, find and commit, in any order, between and within collections: no job lacks a file.

A collection is interrupted at each call of the store by what the machine has drawn. What the store's deletion is asked
within a transaction may be interrupted by workers, who know no database; a commit would wait for that transaction.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, event, select

from service import collection, queue
from service.database.session import Database
from service.database.tables import Artifact
from service.domain.lease import Ending, Lease
from tests.service.test_collection import HOUR, TERMS, pass_time, publish, put
from tests.service.test_queue import RULES
from workers.contracts.events import ArtifactStored, Event, NumberedEvent, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results, StoredFile
from workers.contracts.store import KeptBytes, KeptResult
from workers.local_store import LocalStore

KEYS = [digit * 64 for digit in "12"]
CONTENTS = ["a", "b"]
WORKERS = 2
NUMBERS = st.integers(0, WORKERS - 1)

Act = tuple[str, int, int]
"""What to do, by which worker, with which of the contents or keys."""

ACTS = st.tuples(st.sampled_from(["put", "publish", "find", "find", "commit"]), NUMBERS, st.integers(0, 1))


class Interrupted:
    """A store whose every call is preceded by something else."""

    def __init__(self, store: LocalStore, before: Callable[[bool], None]) -> None:
        self._store, self._before = store, before

    def holds(self, sha256: str) -> bool:
        return self._store.holds(sha256)  # asked within a transaction whose row lock is what matters

    def digests(self, older_than_seconds: float) -> Iterator[KeptBytes]:
        self._before(True)
        yield from list(self._store.digests(older_than_seconds))
        self._before(True)

    def delete(self, sha256: str, older_than_seconds: float) -> bool:
        self._before(False)
        gone = self._store.delete(sha256, older_than_seconds)
        self._before(False)
        return gone

    def results(self) -> Iterator[KeptResult]:
        self._before(True)
        yield from list(self._store.results())

    def drop_result(self, key: str, idle_seconds: float) -> bool:
        self._before(True)
        gone = self._store.drop_result(key, idle_seconds)
        self._before(True)
        return gone


class Collections(RuleBasedStateMachine):
    """Two workers, each with an attempt at a job, and a collector."""

    template: Path
    recipe: Recipe

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.database = Database(f"sqlite:///{shutil.copy(self.template, self.root / 'queue.sqlite3')}")
        fast = "PRAGMA synchronous=OFF"
        event.listen(self.database.engine, "connect", lambda connection, _: connection.execute(fast))
        self.store = LocalStore(self.root / "store")
        self.leases: list[Lease] = [self._leased() for _ in range(WORKERS)]
        self.come_by: list[dict[str, StoredFile]] = [{} for _ in range(WORKERS)]
        """What each attempt has stored or found, as the pipeline remembers it."""

    @rule(act=ACTS)
    def act(self, act: Act) -> None:
        self._do(act)

    @rule()
    def pass_time(self) -> None:
        """So much that no result is of use any more."""
        pass_time(self.database, self.store, TERMS.result_seconds)

    @rule(acts=st.lists(ACTS, max_size=6))
    def collect(self, acts: list[Act]) -> None:
        pass_time(self.database, self.store, TERMS.grace_seconds + HOUR)
        waiting = iter(acts)

        def before(may_commit: bool) -> None:
            if (act := next(waiting, None)) is not None and (may_commit or act[0] != "commit"):
                self._do(act)

        collection.collect(self.database, Interrupted(self.store, before), TERMS)

    @rule()
    def let_go(self) -> None:
        """A retention policy removes the files of the jobs so far."""
        with self.database.writing() as session:
            session.execute(delete(Artifact))

    @invariant()
    def no_job_lacks_a_file(self) -> None:
        with self.database.reading() as session:
            assert all(self.store.holds(sha256) for sha256 in session.scalars(select(Artifact.sha256)))

    def teardown(self) -> None:
        """In the end all garbage goes, and nothing else."""
        for held in self.leases:
            self._tell(held, Succeeded(results=Results()))
        for _ in range(3):
            pass_time(self.database, self.store, 31 * 24 * HOUR)
            collection.collect(self.database, self.store, TERMS)
        with self.database.reading() as session:
            needed = set(session.scalars(select(Artifact.sha256)))
        assert {kept.sha256 for kept in self.store.digests(0.0)} == needed
        self.database.dispose()
        shutil.rmtree(self.root)

    def _do(self, act: Act) -> None:
        what, worker, number = act
        mine = self.come_by[worker]
        if what == "put":
            file = put(self.store, CONTENTS[number])
            mine[file.sha256] = file.model_copy(update={"path": f"model/{CONTENTS[number]}"})
        elif what == "publish" and mine:
            publish(self.store, *mine.values(), key=KEYS[number % len(KEYS)])
        elif what == "find":
            found = self.store.find(KEYS[number % len(KEYS)])
            mine |= {file.sha256: file for file in (found.files if found else [])}
        elif what == "commit" and mine:
            self._commit(worker)

    def _commit(self, worker: int) -> None:
        """As the dispatcher does it."""
        told = [ArtifactStored(files=list(self.come_by[worker].values())), Succeeded(results=Results())]
        batch = [NumberedEvent(sequence=place, event=each) for place, each in enumerate(told, 1)]
        held = self.leases[worker]
        with self.database.writing() as session:
            if collection.lost(session, self.store, batch):
                queue.give_up(session, held, RULES, Ending("transient", "files_lost", "gone"))
            else:
                queue.apply(session, held, batch, RULES)
        self.leases[worker], self.come_by[worker] = self._leased(), {}

    def _tell(self, held: Lease, *told: Event) -> None:
        with self.database.writing() as session:
            queue.apply(session, held, [NumberedEvent(sequence=1, event=each) for each in told], RULES)

    def _leased(self) -> Lease:
        told: dict[str, Any] = {"recipe": self.recipe, "metadata": {}, "labels": {}, "priority": 0}
        with self.database.writing() as session:
            job = queue.enqueue(session, **told)
            held = queue.lease(session, job.id, owner="one", seconds=HOUR)
        assert held is not None
        return held


def test_no_job_ends_with_a_missing_file(migrated: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here, and thousands of files are written
    machine = type("Prepared", (Collections,), {"template": migrated, "recipe": recipe})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
