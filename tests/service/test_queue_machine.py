"""A job and a search on a long random walk through all that owners, workers, clocks and callers do to them.

Seeded, and not Hypothesis's: its sequences are short and leave out some commands each, and what matters here needs
several of them about one entry.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, func, select, update
from sqlalchemy.orm import Session

from service import queue, searches
from service.database.session import Database
from service.database.tables import Attempt, Job
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
STEPS = 700
REACHED = {
    "pause": ("pausing", "paused"),
    "resume": ("queued", "running"),
    "cancel": ("cancelling", "cancelled"),
    "retry": ("queued", "running"),
}
LAST_WORDS: list[Event] = [
    *[Succeeded(results=Results())] * 2,
    Failed(fault="recipe", code="invalid_recipe", message="x"),
    *[Failed(fault="transient", code="transient", message="x")] * 3,
]


def reports(draw: random.Random) -> Iterator[Event]:
    """What an attempt may tell, sensible or not."""
    while True:
        number = draw.randint(1, 3)
        yield draw.choice(
            [
                TrialProposed(trial=number, point={}),
                TrialProposed(trial=number, point={}),
                finished(number, draw.randint(1, 9)),
                TrialProgressed(trial=number, stage="recover", fraction=0.5),
                TrialReported(trial=number, rung=draw.randint(0, 2), value=1.0, decision="go_on"),
                CheckpointSaved(stage="regularize", step=draw.randint(1, 3)),
            ]
        )


class Walk:
    """A real database, and every lease that was ever given: dispatchers may come back from the dead."""

    def __init__(self, database: Database, recipe: Recipe, search: Search, draw: random.Random) -> None:
        self.database = database
        self.draw, self.recipe, self.search = draw, recipe, search
        self.reports = reports(draw)
        if not database.is_postgresql:
            fast = "PRAGMA synchronous=OFF"
            event.listen(database.engine, "connect", lambda connection, _: connection.execute(fast))
        self.known: dict[str, Job] = {}
        self.ended: dict[tuple[str, int], Any] = {}
        self.leases: dict[str, list[Lease]] = {"job": [], "search": []}
        self.ids = {kind: self._new(kind) for kind in self.leases}
        self.check()

    def step(self) -> None:
        """One command about one of the two."""
        kind = self.draw.choice(["job", "search"])
        if self.known[self.ids[kind]].status in FINAL:
            chance = self.draw.random()
            if chance < 0.4:
                self.ids[kind] = self._new(kind)
            elif chance < 0.6:
                self.wish(kind, "retry")
                return
        act = self.draw.choice([self.take, self.wish, self.wish, self.report, self.report, self.end, self.hold])
        act(kind)

    def take(self, kind: str) -> None:
        """Lease it; or let its lease expire, or adopt it, or both."""
        how = self.draw.choice(["lease", "lease", "expire", "adopt", "expire and adopt"])
        if "expire" in how:
            with self.database.writing() as session:
                leased = (Job.id == self.ids[kind], Job.lease_token.is_not(None))
                session.execute(update(Job).where(*leased).values(lease_expires_at=0.0))
        if how != "expire":
            self._take(queue.lease if how == "lease" else queue.adopt, kind)

    def wish(self, kind: str, verb: str | None = None) -> None:
        """A caller wants something."""
        verb = verb or self.draw.choice(["pause"] * 3 + ["resume"] * 4 + ["cancel", "retry"])
        with self.database.writing() as session:
            before = session.get_one(Job, self.ids[kind]).status
            try:
                after = getattr(queue, verb)(session, self.ids[kind]).status
            except Conflict:
                refused = ("pausing", "paused") if verb == "retry" else ("cancelled", "failed")
                assert before in ("cancelling", "succeeded", *refused)
                return
        assert after in REACHED[verb]
        if verb == "retry" and before in FINAL:
            self.ended = {which: was for which, was in self.ended.items() if which[0] != self.ids[kind]}

    def report(self, kind: str) -> None:
        """An attempt tells something, perhaps from its last committed event on."""
        told = [next(self.reports) for _ in range(self.draw.randint(1, 5))]
        self._apply(kind, told, back=self.draw.choice([0, 0, 1]))

    def end(self, kind: str) -> None:
        """An attempt comes to its end."""
        self._apply(kind, [next(self.reports), self.draw.choice(LAST_WORDS)])

    def hold(self, kind: str) -> None:
        """An owner acts on its lease."""
        acts: list[Callable[[Session, Lease], object]] = [
            lambda session, held: queue.lose(session, held, RULES, message="gone"),
            lambda session, held: queue.renew(session, held, seconds=15),
            queue.finish_stopping,
        ]
        self._with_lease(kind, self.draw.choice(acts))

    def _new(self, kind: str) -> str:
        told: dict[str, Any] = {"recipe": self.recipe, "metadata": {}, "labels": {}, "priority": 0}
        with self.database.writing() as session:
            if kind == "job":
                return queue.enqueue(session, **told).id
            return searches.submit(session, search=self.search, **told).id

    def _take(self, taking: Callable[..., Lease | None], kind: str) -> None:
        with self.database.writing() as session:
            taken = taking(session, self.ids[kind], owner=self.draw.choice(["one", "two"]), seconds=15)
        self.leases[kind].extend([taken] if taken else [])
        self.check()

    def _apply(self, kind: str, told: list[Event], back: int = 0) -> None:
        def apply(session: Session, held: Lease) -> None:
            first = max(1, session.get_one(Attempt, held.attempt_id).last_sequence + 1 - back)
            batch = [NumberedEvent(sequence=first + place, event=each) for place, each in enumerate(told)]
            queue.apply(session, held, batch, RULES)

        self._with_lease(kind, apply)

    def _with_lease(self, kind: str, act: Callable[[Session, Lease], object]) -> None:
        """Act on the newest lease, taken now if it waits, or on an older one, which must change nothing."""
        age = self.draw.choice([0, 0, 0, 0, 1, 2])
        if age == 0:
            self._take(queue.lease, kind)
        if len(self.leases[kind]) <= age:
            return
        held = self.leases[kind][-1 - age]
        before = self._read(held.job_id)
        in_force = before.lease_token == held.token and (before.lease_expires_at or 0) > 0
        try:
            with self.database.writing() as session:
                act(session, held)
            assert in_force
        except LeaseLost:
            assert not in_force and self._read(held.job_id).version == before.version

    def _read(self, job_id: str) -> Job:
        with self.database.reading() as session:
            return session.get_one(Job, job_id)

    def check(self) -> None:
        """What must hold whatever happened."""
        with self.database.reading() as session:
            for job in session.scalars(select(Job)).all():
                self._status_is_legal(job)
                if job.id in self.known and job.version == self.known[job.id].version:
                    continue  # looked at before, and told of nothing since
                _attempts_are_whole(session, job)
                self.known[job.id] = job
                if job.kind == "search":
                    self._trials_share_its_fate(session, job)

    def _status_is_legal(self, job: Job) -> None:
        before = self.known.get(job.id, job)
        assert job.status == before.status or job.status in LEGAL[Status(before.status)]
        assert before.status not in FINAL or job.version == before.version or job.status == "queued", (
            "what is final stays"
        )
        assert job.version > before.version or job.status == before.status
        assert (job.lease_token is not None) == (job.status in LEASED) == (job.lease_owner is not None)
        assert (job.finished_at is not None) == (job.status in FINAL)

    def _trials_share_its_fate(self, session: Session, job: Job) -> None:
        _, row = searches.get(session, job.id)
        trials, _ = searches.trials(session, job.id, limit=10)
        others = {"stopped"} if job.status in FINAL else {"waiting"}
        open_words = {"running", "waiting"} if job.status in LEASED else others
        assert {each.status for each in trials if each.finished is None} <= open_words
        ended = {(job.id, each.number): (each.finished, each.ended_as) for each in trials if each.finished is not None}
        assert sorted(place for _, place in ended.values() if place) == list(range(1, len(ended) + 1))
        assert all(self.ended.get(which, was) == was for which, was in ended.items()), "a trial ends once"
        assert (row.best is None) == (not ended) and len(row.frontier) <= 1
        self.ended |= ended


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


WALKS = [("sqlite", 0), ("sqlite", 1), pytest.param("postgresql", 2, marks=pytest.mark.postgres)]


@pytest.mark.parametrize(("backend", "seed"), WALKS)
def test_what_must_always_hold(database: Database, recipe: Recipe, search: Search, seed: int) -> None:
    walk = Walk(database, recipe, search, random.Random(seed))
    for _ in range(STEPS):
        walk.step()
        walk.check()
    _is_no_idle_walk(walk)


def _is_no_idle_walk(walk: Walk) -> None:
    with walk.database.reading() as session:
        told = Counter(session.scalars(select(EventRow.type)))
    wanted = (
        "job_paused",
        "job_resumed",
        "job_requeued",
        "job_retried",
        "job_succeeded",
        "job_cancelled",
        "trial_finished",
    )
    assert not (never := [type for type in wanted if not told[type]]), never
