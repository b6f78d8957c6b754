"""Two jobs and a search under any sequence of what owners, workers, clocks and callers do: what must always hold."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import event, func, select, update
from sqlalchemy.orm import Session

from service import queue, searches
from service.database.session import Database
from service.database.tables import Attempt, Job, Trial
from service.database.tables import Event as EventRow
from service.domain.job import FINAL, LEASED, LEGAL, Status
from service.domain.lease import Lease, RetryRules
from service.errors import Conflict, LeaseLost
from tests.service.torchfree_engines import finished
from workers.contracts.events import CheckpointSaved, Event, Failed, NumberedEvent, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.contracts.search import Search
from workers.contracts.trials import TrialProgressed, TrialProposed, TrialReported

RULES = RetryRules(max_attempts=3, first_wait_seconds=0.0, longest_wait_seconds=0.0)
ENTRIES = st.integers(0, 2)
OWNERS = st.sampled_from(["one", "two"])
NUMBERS = st.integers(1, 3)
REPORTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(CheckpointSaved, stage=st.just("regularize"), step=st.integers(1, 3)),
    st.builds(TrialProposed, trial=NUMBERS, point=st.just({})),
    st.builds(TrialProgressed, trial=NUMBERS, stage=st.just("recover"), fraction=st.just(0.5)),
    st.builds(TrialReported, trial=NUMBERS, rung=NUMBERS, value=st.just(1.0), decision=st.just("go_on")),
    st.builds(finished, NUMBERS, st.integers(1, 9)),
    st.just(Succeeded(results=Results())),
    st.sampled_from(["recipe", "out_of_memory", "transient"]).map(
        lambda fault: Failed(fault=fault, code=fault, message="x")
    ),
)


class Queue(RuleBasedStateMachine):
    """A real database, and every lease that was ever given: dispatchers may come back from the dead."""

    def __init__(self, migrated: Path, recipe: Recipe, search: Search) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.database = Database(f"sqlite:///{shutil.copy(migrated, self.folder / 'queue.sqlite3')}")
        event.listen(
            self.database.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF")
        )
        told: dict[str, Any] = {"recipe": recipe, "metadata": {}, "labels": {}, "priority": 0}
        with self.database.writing() as session:
            self.ids = [queue.enqueue(session, **told).id for _ in range(2)]
            self.ids.append(searches.submit(session, search=search, **told).id)
        self.leases: list[Lease] = []
        self.known: dict[str, Job] = {}
        self.ended: dict[int, Any] = {}

    def teardown(self) -> None:
        self.database.dispose()
        shutil.rmtree(self.folder)

    @rule(entry=ENTRIES, owner=OWNERS)
    def lease(self, entry: int, owner: str) -> None:
        self._take(queue.lease, entry, owner)

    @rule(entry=ENTRIES, owner=OWNERS)
    def adopt(self, entry: int, owner: str) -> None:
        self._take(queue.adopt, entry, owner)

    @rule(entry=ENTRIES)
    def expire(self, entry: int) -> None:
        with self.database.writing() as session:
            leased = (Job.id == self.ids[entry], Job.lease_token.is_not(None))
            session.execute(update(Job).where(*leased).values(lease_expires_at=0.0))

    @rule(entry=ENTRIES, verb=st.sampled_from(["pause", "pause", "resume", "resume", "cancel"]))
    def wish(self, entry: int, verb: str) -> None:
        with self.database.writing() as session:
            before = session.get_one(Job, self.ids[entry]).status
            try:
                after = getattr(queue, verb)(session, self.ids[entry]).status
            except Conflict:
                assert before in ("cancelling", "cancelled", "succeeded", "failed")
                return
        assert (verb, after) in {
            *(("pause", word) for word in ("pausing", "paused")),
            *(("resume", word) for word in ("queued", "running")),
            *(("cancel", word) for word in ("cancelling", "cancelled")),
        }

    @rule(which=st.integers(0, 9), reports=st.lists(REPORTS, min_size=1, max_size=4), back=st.integers(0, 1))
    def report(self, which: int, reports: list[Event], back: int) -> None:
        """Perhaps with the last event once more."""

        def apply(session: Session, held: Lease) -> None:
            reached = session.get_one(Attempt, held.attempt_id).last_sequence
            first = max(1, reached + 1 - back)
            batch = [
                NumberedEvent(sequence=first + place, event=each) for place, each in enumerate(_to_the_end(reports))
            ]
            queue.apply(session, held, batch, RULES)

        self._with_lease(which, apply)

    @rule(which=st.integers(0, 9))
    def lose(self, which: int) -> None:
        self._with_lease(which, lambda session, held: queue.lose(session, held, RULES, message="gone"))

    @rule(which=st.integers(0, 9))
    def stopped(self, which: int) -> None:
        self._with_lease(which, queue.finish_stopping)

    @rule(which=st.integers(0, 9))
    def renew(self, which: int) -> None:
        self._with_lease(which, lambda session, held: queue.renew(session, held, seconds=15))

    def _take(self, taking: Callable[..., Lease | None], entry: int, owner: str) -> None:
        with self.database.writing() as session:
            taken = taking(session, self.ids[entry], owner=owner, seconds=15)
        self.leases += [taken] if taken else []

    def _with_lease(self, which: int, act: Callable[[Session, Lease], object]) -> None:
        """Old ones on purpose, counted from the newest: they must be refused, and change nothing."""
        if not self.leases:
            return
        held = self.leases[-1 - which % len(self.leases)]
        before = self._read()[held.job_id]
        in_force = before.lease_token == held.token and (before.lease_expires_at or 0) > 0
        try:
            with self.database.writing() as session:
                act(session, held)
            assert in_force
        except LeaseLost:
            assert not in_force and self._read()[held.job_id].version == before.version

    def _read(self) -> dict[str, Job]:
        with self.database.reading() as session:
            return {job.id: job for job in session.scalars(select(Job))}

    @invariant()
    def what_must_hold(self) -> None:
        with self.database.reading() as session:
            for job in session.scalars(select(Job)).all():
                self._status_is_legal(job)
                _attempts_are_whole(session, job)
                self.known[job.id] = job
            self._trials_share_their_searchs_fate(session)

    def _status_is_legal(self, job: Job) -> None:
        before = self.known.get(job.id, job)
        assert job.status == before.status or job.status in LEGAL[Status(before.status)]
        assert before.status not in FINAL or job.version == before.version, "what is final stays"
        assert job.version > before.version or job.status == before.status
        assert (job.lease_token is not None) == (job.status in LEASED) == (job.lease_owner is not None)
        assert (job.finished_at is not None) == (job.status in FINAL)

    def _trials_share_their_searchs_fate(self, session: Session) -> None:
        job, row = searches.get(session, self.ids[2])
        trials = session.scalars(select(Trial)).all()
        others = {"stopped"} if job.status in FINAL else {"waiting"}
        open_words = {"running", "waiting"} if job.status in LEASED else others
        assert {each.search_id for each in trials} <= {job.id}
        assert {each.status for each in trials if each.finished is None} <= open_words
        ended = {each.number: (each.finished, each.ended_as) for each in trials if each.finished is not None}
        assert sorted(place for _, place in ended.values() if place) == list(range(1, len(ended) + 1))
        assert all(ended[number] == was for number, was in self.ended.items()), "a trial ends once"
        assert (row.best is None) == (not ended) and {row.best} - {None} <= set(ended) and len(row.frontier) <= 1
        self.ended = ended


def _attempts_are_whole(session: Session, job: Job) -> None:
    """Numbered without gaps, as the events are, and only what is leased has one alive: the last."""
    wanted = select(Attempt.number, Attempt.outcome, Attempt.ended_at).where(Attempt.job_id == job.id)
    attempts = session.execute(wanted.order_by(Attempt.number)).all()
    assert [number for number, _, _ in attempts] == list(range(1, job.attempts + 1))
    alive = [number for number, outcome, _ in attempts if outcome is None]
    assert alive == ([job.attempts] if job.status in LEASED else [])
    assert all((ended_at is None) == (outcome is None) for _, outcome, ended_at in attempts)
    told = select(func.count(), func.coalesce(func.max(EventRow.number), 0)).where(EventRow.job_id == job.id)
    assert tuple(session.execute(told).one()) == (job.last_event, job.last_event)


def _to_the_end(reports: list[Event]) -> list[Event]:
    """Nothing comes after the last word."""
    last = next((place for place, each in enumerate(reports) if isinstance(each, Succeeded | Failed)), len(reports))
    return reports[: last + 1]


def test_what_must_always_hold(migrated: Path, recipe: Recipe, search: Search) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Queue(migrated, recipe, search),
        settings=hypothesis_settings(max_examples=20, stateful_step_count=25, deadline=None),
    )
