"""The dispatcher: leases queued jobs, has them run, commits what they report, and finds its way after any crash.

Single-threaded. Each step is one short transaction, and none is open while the runner is talked to.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import backlog, collection, queue, searches
from service.database import locks
from service.database.news import Channel, Listener
from service.database.schema import require_known
from service.database.session import Database
from service.database.tables import Job
from service.dispatch.cut_short import gap, swept
from service.dispatch.room import OTHER_VERSION, Room
from service.dispatch.runner import News, Runner
from service.domain.lease import Ending, Lease
from service.errors import LeaseLost
from service.settings import Settings
from service.upkeep import Keeper
from workers.actor import Order, SearchOrder
from workers.contracts.events import Failed, Succeeded
from workers.contracts.store import ArtifactStore

logger = logging.getLogger(__name__)

_AT_ONCE = 32
"""Jobs read in one transaction."""
_MORE_RARELY = 4
"""Where the database tells what is new, the queue is looked at so much more rarely unasked: for what only time brings,
such as a lease that expires."""
_UPKEEP_ASKED_SECONDS = 60.0
"""Time between two questions whether upkeep is due; the answer costs a statement."""
_LETTING_GO_SECONDS = 5.0
_CLUSTER_LOST = "the Ray cluster is gone; the job goes on from its last checkpoint on a new one"
_NOT_FOUND = "its dispatcher and its worker are both gone"


Result = TypeVar("Result")


@dataclass
class _Held:
    """An attempt in our hands."""

    lease: Lease
    last_sequence: int
    asked: bool = False
    """A question for its next events is under way."""


@dataclass
class _Duty:
    """Something done again and again."""

    act: Callable[[], None]
    every_seconds: float
    due_at: float = 0.0


class _RoomTaken(Exception):
    """Another dispatcher has started something since we looked."""


class Dispatcher:
    """Runs jobs through a runner. Several may work on one database; each holds leases of its own."""

    def __init__(
        self,
        database: Database,
        runner: Runner,
        store: ArtifactStore,
        settings: Settings,
        keeper: Keeper | None = None,
    ) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._database = database
        self._runner = runner
        self._store = store
        self._settings = settings
        self._rules = settings.retry_rules
        self._held: dict[str, _Held] = {}
        self._listener = Listener(database, Channel.QUEUE, settings.poll_seconds)
        self._looking = _Duty(self._look, settings.poll_seconds)
        # Renewal first: whatever takes long comes after it.
        self._duties = [
            _Duty(self._renew, settings.heartbeat_seconds),
            _Duty(self._check, settings.poll_seconds),
            self._looking,
            _Duty(self._reap, settings.reap_seconds),
        ]
        self._keeper = keeper
        if keeper is not None:
            self._duties.append(_Duty(keeper.begin_if_due, _UPKEEP_ASKED_SECONDS))

    def run_forever(self, stop: threading.Event) -> None:
        """Work until told to stop; then let the leases end at once, so that a successor adopts without waiting.

        Raises:
            SchemaOutdated: the database was migrated to a schema that this version must leave alone.
        """
        logger.info("dispatcher %s begins", self.owner)
        while not stop.is_set():
            try:
                self.tick()
            except Exception:  # whatever it was, the jobs that run need their dispatcher
                logger.exception("a tick failed; going on")
                self._heed_schema()
                stop.wait(1.0)
        self._listener.rest()
        try:
            self._database.write(lambda session: queue.release(session, self.owner))
        except SQLAlchemyError as error:
            logger.warning("the leases could not be ended and will expire by themselves: %s", error)
        if self._keeper is not None:
            self._keeper.stop(_LETTING_GO_SECONDS)
        logger.info("dispatcher %s ends; what runs is left to its successor", self.owner)

    def tick(self) -> None:
        """Commit the news that come before the next duty, then do what is due."""
        next_due = min(duty.due_at for duty in self._duties)
        answers = self._wait(max(0.0, next_due - time.monotonic()))
        # First of all: if a commit fails, the next look asks all of them again.
        for news in answers:
            if news.attempt_id in self._held:
                self._held[news.attempt_id].asked = False
        for news in answers:
            self._commit(news)
        for duty in self._duties:
            if time.monotonic() >= duty.due_at:
                duty.due_at = time.monotonic() + duty.every_seconds
                duty.act()

    def _wait(self, seconds: float) -> list[News]:
        """Until an attempt answers, or the time is over; while none is asked, until the queue has changed."""
        if any(held.asked for held in self._held.values()):
            answers, told = self._runner.wait(seconds), self._listener.wait(0.0)
        else:
            told, answers = self._listener.wait(seconds), self._runner.wait(0.0)
        if told:
            self._looking.due_at = 0.0
        self._looking.every_seconds = self._settings.poll_seconds * (_MORE_RARELY if self._listener.is_told else 1)
        return answers

    def _heed_schema(self) -> None:
        """After a failure: was it the database that has become another?"""
        try:
            require_known(self._database)
        except SQLAlchemyError:
            return  # it does not answer; the next tick tries again

    def _commit(self, news: News) -> None:
        """Write down what an attempt reported, then ask on, or let go of it if it has ended."""
        held = self._held.get(news.attempt_id)
        if held is None:
            return
        reached, ending = held.last_sequence, news.ending

        def commit(session: Session, lease: Lease) -> tuple[int, Ending | None]:
            reached = held.last_sequence
            # First: those that are still there are then kept, whoever sweeps.
            lost = collection.lost(session, self._store, news.events)
            if not lost:
                reached = queue.apply(session, lease, news.events, self._rules, news.node)
            ending = news.ending or (swept(lost) if lost else gap(news, reached))
            if ending is not None:
                queue.give_up(session, lease, self._rules, ending)
            return reached, ending

        if news.events or ending:
            reached, ending = self._write(held, commit) or (reached, ending)
        # Not before the commit: asking on makes the worker forget, and a commit may fail.
        held.last_sequence = reached
        last = next((item.event for item in news.events if item.sequence == reached), None)
        ended = ending is not None or isinstance(last, Succeeded | Failed)
        if news.attempt_id not in self._held:
            return  # the lease was lost; whoever has it now sees to the rest
        if ended:
            logger.info("job %s attempt %s has ended", held.lease.job_id, news.attempt_id)
            self._drop(held)
        elif news.events or news.node:
            self._follow(held)
        # Else it cannot be reached just now: the next look asks again, not this very moment.

    def _renew(self) -> None:
        """Prolong every lease."""
        for held in list(self._held.values()):
            self._write(held, self._prolong)

    def _prolong(self, session: Session, lease: Lease) -> None:
        queue.renew(session, lease, seconds=self._settings.lease_seconds)

    def _check(self) -> None:
        """See that the cluster is there, and that every attempt is asked."""
        if self._runner.recover():
            self._lose_all()
        for held in self._held.values():
            if not held.asked:
                self._follow(held)

    def _look(self) -> None:
        """Stop what is cancelled or paused, adopt what lost its dispatcher, start what waits and fits."""
        with self._database.reading() as session:
            stopping = backlog.stopping(session, self.owner)
            overdue = backlog.overdue(session, self.owner)
            expired = backlog.expired(session, _AT_ONCE)
        for held in [held for held in self._held.values() if held.lease.job_id in stopping]:
            self._stop(held)
        for held in [held for held in self._held.values() if held.lease.job_id in overdue]:
            self._end_overdue(held)
        for job_id, attempt_id in expired:
            self._adopt(job_id, attempt_id)
        self._start_fitting()

    def _stop(self, held: _Held) -> None:
        """Free what a job holds that was told to cancel or to pause, then say so."""
        self._runner.stop(held.lease.attempt_id)
        self._write(held, queue.finish_stopping)
        self._held.pop(held.lease.attempt_id, None)

    def _end_overdue(self, held: _Held) -> None:
        """End an attempt of which a stage takes too long, and free what it holds."""
        if self._write(held, partial(queue.overrun, rules=self._rules)):
            logger.warning("job %s attempt %s: a stage is past its deadline", held.lease.job_id, held.lease.attempt_id)
            self._drop(held)

    def _adopt(self, job_id: str, attempt_id: str) -> None:
        """Go on with an attempt whose lease expired; if its worker is gone too, have the job tried again."""
        self._held.pop(attempt_id, None)
        lives = self._runner.attach(attempt_id)

        def adopt(session: Session) -> Lease | None:
            lease = queue.adopt(session, job_id, owner=self.owner, seconds=self._settings.lease_seconds)
            if lease is not None and lives:
                queue.note_adoption(session, lease)
            elif lease is not None:
                queue.lose(session, lease, self._rules, message=_NOT_FOUND)
            return lease

        lease = self._database.write(adopt)
        if lease is None:
            return
        logger.info("job %s attempt %s: %s", job_id, attempt_id, "adopted" if lives else "lost")
        if lives:
            self._follow(self._hold(lease))

    def _start_fitting(self) -> None:
        """Start jobs in their order, past those that can never run here, until there is no room left."""
        with self._database.reading() as session:
            page, specs = backlog.page(session, _AT_ONCE)
            leased = backlog.leased(session) if page else {}
        if not page:
            return
        room = Room(self._runner.total(), self._runner.free(), leased.values())
        known = set(leased)
        while page:
            for job in page:
                placement = room.place(job, specs.get(job.id))
                if not placement.slots:
                    self._explain(job, placement.reason)
                elif not self._start(job, placement.slots, known):
                    self._looking.due_at = 0.0  # the room is another than we thought
                    return
                known.add(job.id)
            if room.is_full:
                return
            with self._database.reading() as session:
                page, specs = backlog.page(session, _AT_ONCE, page[-1])

    def _start(self, job: Job, slots: int, known: set[str]) -> bool:
        """Begin an attempt, unless somebody was faster. False: another dispatcher has leased a job that is not among
        the `known` ones, and room with it."""

        def begin(session: Session) -> tuple[Lease, Order] | None:
            locks.hold(session, "start")  # one after the other, lest two fill the same room
            if not backlog.leased(session).keys() <= known:
                raise _RoomTaken
            lease = queue.lease(
                session,
                job.id,
                owner=self.owner,
                seconds=self._settings.lease_seconds,
                stage_seconds=self._stage_seconds(job),
            )
            # Within the transaction: what an attempt is told must be all that those before it left.
            return None if lease is None else (lease, self._order(session, job, lease, slots))

        try:
            begun = self._database.write(begin)
        except ValidationError:
            self._explain(job, OTHER_VERSION)
            return True
        except _RoomTaken:
            return False
        if begun is not None:
            self._run(job, *begun)
        return True

    def _run(self, job: Job, lease: Lease, order: Order) -> None:
        """Hand an attempt to the runner."""
        held = self._hold(lease)
        logger.info("%s %s attempt %s (number %s) begins", job.kind, job.id, lease.attempt_id, lease.number)
        try:
            self._runner.start(order)
        except Exception as error:
            logger.exception("attempt %s could not be started", lease.attempt_id)
            # Let go first: if the write fails, the lease must expire for the attempt to be looked after.
            self._drop(held)
            self._write(held, partial(queue.lose, rules=self._rules, message=f"it could not be started: {error}"))
            return
        self._follow(held)

    def _order(self, session: Session, job: Job, lease: Lease, slots: int) -> Order:
        """What the runner is told.

        Raises:
            pydantic.ValidationError: what a search left was written by another version.
        """
        search = None
        if job.kind == "search":
            _, row = searches.get(session, job.id)
            record = searches.record(session, job.id).model_dump(mode="json")
            search = SearchOrder(row.spec, record, concurrency=slots, engine=self._settings.search_engine)
        return Order(
            attempt_id=lease.attempt_id,
            owner=lease.job_id,
            recipe=job.recipe,
            places=self._settings.places().model_dump(mode="json"),
            store=self._store,
            pipeline=self._settings.pipeline,
            unpolled_seconds=self._settings.unpolled_seconds,
            stage_seconds=self._stage_seconds(job),
            search=search,
        )

    def _stage_seconds(self, job: Job) -> float | None:
        """What a stage of this job may take: as its recipe says, or else the deployment."""
        hours = backlog.resources(job.recipe).stage_deadline_hours or self._settings.stage_deadline_hours
        return None if hours is None else hours * 3600.0

    def _reap(self) -> None:
        """End workers whose attempt has ended in the database: nobody will ask them again."""
        there = self._runner.attempts()
        if not there:
            return
        with self._database.reading() as session:
            # An attempt that this database does not know belongs to another service on the cluster.
            ended = backlog.ended_attempts(session, there)
        for attempt_id in ended:
            logger.info("attempt %s has ended but its worker has not; ending it", attempt_id)
            self._runner.stop(attempt_id)

    def _lose_all(self) -> None:
        """The cluster is a new one: no attempt of the old one lives."""
        lost = list(self._held.values())
        # Let go of all first: where the write fails, the lease must expire for the attempt to be looked after.
        self._held.clear()
        for held in lost:
            self._write(held, partial(queue.lose, rules=self._rules, message=_CLUSTER_LOST))

    def _explain(self, job: Job, reason: str | None) -> None:
        if job.reason != reason:
            self._database.write(lambda session: queue.explain(session, job.id, reason))

    def _hold(self, lease: Lease) -> _Held:
        held = self._held[lease.attempt_id] = _Held(lease, lease.last_sequence)
        return held

    def _drop(self, held: _Held) -> None:
        self._held.pop(held.lease.attempt_id, None)
        self._runner.stop(held.lease.attempt_id)

    def _follow(self, held: _Held) -> None:
        self._runner.follow(held.lease.attempt_id, held.last_sequence)
        held.asked = True

    def _write(self, held: _Held, work: Callable[[Session, Lease], Result]) -> Result | None:
        """A transaction on a lease's behalf. If the lease is lost (None), so is the attempt to us; its worker is not
        touched, for somebody else may have adopted it."""
        try:
            return self._database.write(lambda session: work(session, held.lease))
        except LeaseLost as lost:
            logger.warning("%s; letting go", lost)
            self._held.pop(held.lease.attempt_id, None)
            return None
