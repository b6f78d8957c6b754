"""The queue's promises, on a real database: order, leases, fences, retries, gapless history."""

import contextlib
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import update

from service import backlog, events, jobs, queue
from service.artifacts import catalog
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Attempt, Job
from service.domain.job import FINAL, LEGAL, Status
from service.domain.lease import Ending, Lease, RetryRules
from service.errors import Conflict, LeaseLost, NotFound
from workers.contracts.events import (
    ArtifactStored,
    Event,
    Failed,
    Measured,
    Notice,
    NumberedEvent,
    Progress,
    StageStarted,
    Succeeded,
)
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results, StoredFile

RULES = RetryRules(max_attempts=3, first_wait_seconds=0.0, longest_wait_seconds=0.0)
KEY = "b" * 64


def enqueue(database: Database, recipe: Recipe, priority: int = 0) -> str:
    with database.writing() as session:
        return queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=priority).id


def lease(database: Database, job_id: str, owner: str = "one") -> Lease:
    with database.writing() as session:
        taken = queue.lease(session, job_id, owner=owner, seconds=15)
    assert taken is not None
    return taken


def apply(database: Database, held: Lease, *reported: Event, first: int = 1) -> int:
    batch = [NumberedEvent(sequence=first + place, event=event) for place, event in enumerate(reported)]
    with database.writing() as session:
        return queue.apply(session, held, batch, RULES, node="here")


def expire(database: Database, job_id: str) -> None:
    with database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=database_now() - 1))


def read(database: Database, job_id: str) -> Job:
    with database.reading() as session:
        return session.get_one(Job, job_id)


def history(database: Database, job_id: str) -> list[Any]:
    with database.reading() as session:
        return events.listing(session, job_id, after=0, limit=10_000)


def progress(step: int, loss: float = 1.0) -> Progress:
    return Progress(stage="regularize", step=step, steps=9, metrics={"loss": loss})


def test_a_new_job_waits_with_its_first_event(database: Database, recipe: Recipe) -> None:
    job = read(database, enqueue(database, recipe))
    assert (job.status, job.last_event, job.attempts) == ("queued", 1, 0)
    assert [event.type for event in history(database, job.id)] == ["job_queued"]
    assert Recipe.model_validate(job.recipe) == recipe


def test_order_is_priority_then_age(database: Database, recipe: Recipe) -> None:
    first, second, urgent = (enqueue(database, recipe, priority) for priority in (0, 0, 5))
    with database.reading() as session:
        assert [job.id for job in backlog.waiting(session, 10)] == [urgent, *sorted([first, second])]


def test_a_lease_is_given_once(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    lease(database, job_id)
    with database.writing() as session:
        assert queue.lease(session, job_id, owner="two", seconds=15) is None


def test_two_takers_racing_never_share_a_job(database: Database, recipe: Recipe) -> None:
    wanted = [enqueue(database, recipe) for _ in range(12)]
    taken: list[str] = []
    start = threading.Barrier(3)

    def take(owner: str) -> None:
        own = Database(database.url)
        start.wait()
        for job_id in wanted:
            with own.writing() as session:
                if queue.lease(session, job_id, owner=owner, seconds=15):
                    taken.append(job_id)
        own.dispose()

    threads = [threading.Thread(target=take, args=(f"taker {n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(wanted)


def test_reports_reach_the_row(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    stored = StoredFile(path="model/config.json", sha256="c" * 64, size_bytes=2)
    apply(
        database,
        held,
        StageStarted(stage="regularize", key=KEY, index=0, count=1),
        progress(4, loss=float("nan")),
        Measured(subject="dense", measurement=Measurement(parameters=3)),
        ArtifactStored(files=[stored]),
    )
    job = read(database, job_id)
    assert job.stage == "regularize"
    assert job.progress == {"stage": "regularize", "subject": None, "step": 4, "steps": 9, "metrics": {"loss": None}}
    assert job.results == {"dense": {"parameters": 3}}
    with database.reading() as session:
        assert catalog.find(session, job_id, "model/config.json").attempt_id == held.attempt_id
        assert jobs.attempts(session, job_id)[0].node == "here"
        with pytest.raises(NotFound):
            catalog.find(session, job_id, "model/none")


def test_a_figure_that_is_no_number_does_not_stop_what_follows(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    broken = Measurement(perplexity={"text": float("nan")}, parameters=3)
    apply(database, held, Measured(subject="pruned", measurement=broken))
    apply(database, held, Measured(subject="recovered", measurement=Measurement(parameters=3)), first=2)
    assert read(database, job_id).results == {
        "pruned": {"parameters": 3, "perplexity": {"text": None}},
        "recovered": {"parameters": 3},
    }


def test_success_ends_job_attempt_and_lease_in_one(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    apply(database, held, Succeeded(results=Results(dense=Measurement(parameters=3))))
    job = read(database, job_id)
    assert (job.status, job.stage, job.lease_token, job.results) == (
        "succeeded",
        None,
        None,
        {"dense": {"parameters": 3}},
    )
    assert job.finished_at is not None and job.started_at is not None and job.finished_at >= job.started_at
    assert [event.type for event in history(database, job_id)][-2:] == ["pipeline_succeeded", "job_succeeded"]
    with pytest.raises(LeaseLost):
        apply(database, held, Notice(message="late"), first=2)


@given(cuts=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12))
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_may_repeat_overlap_and_gap(database: Database, recipe: Recipe, cuts: list[tuple[int, int]]) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    committed = 0
    for first, length in [*cuts, (1, 24)]:
        steps = range(first, first + length)
        reached = apply(database, held, *(progress(step) for step in steps), first=first)
        committed = max(committed, first + length - 1) if first <= committed + 1 else committed
        assert reached == committed
    told = history(database, job_id)
    assert [event.number for event in told] == list(range(1, len(told) + 1))
    assert [event.body["step"] for event in told if event.type == "progress"] == list(range(1, 25))


def test_a_zombie_writes_nothing(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    zombie = lease(database, job_id)
    apply(database, zombie, progress(1))
    expire(database, job_id)
    with pytest.raises(LeaseLost), database.writing() as session:
        queue.renew(session, zombie, seconds=15)
    with database.writing() as session:
        heir = queue.adopt(session, job_id, owner="two", seconds=15)
    assert heir is not None and heir.attempt_id == zombie.attempt_id and heir.last_sequence == 1
    before = len(history(database, job_id))
    with pytest.raises(LeaseLost):
        apply(database, zombie, progress(2), first=2)
    with pytest.raises(LeaseLost), database.writing() as session:
        queue.finish_stopping(session, zombie)
    with pytest.raises(LeaseLost), database.writing() as session:
        queue.lose(session, zombie, RULES, message="gone")
    assert len(history(database, job_id)) == before
    assert apply(database, heir, progress(2), first=2) == 2


def test_only_an_expired_lease_is_adopted(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    lease(database, job_id)
    with database.writing() as session:
        assert backlog.expired(session, 10) == []
        assert queue.adopt(session, job_id, owner="two", seconds=15) is None


def test_release_lets_a_successor_adopt_at_once(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    with database.writing() as session:
        queue.release(session, "one")
        assert backlog.expired(session, 10) == [(job_id, held.attempt_id)]
        assert queue.adopt(session, job_id, owner="two", seconds=15) is not None


@pytest.mark.parametrize("fault", ["recipe", "out_of_memory"])
def test_some_faults_are_never_retried(database: Database, recipe: Recipe, fault: Any) -> None:
    job_id = enqueue(database, recipe)
    apply(database, lease(database, job_id), Failed(fault=fault, code="some_code", message="do this"))
    job = read(database, job_id)
    assert (job.status, job.error_code, job.error_message) == ("failed", "some_code", "do this")


def test_a_passing_fault_is_retried_up_to_the_cap(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    for number in range(1, RULES.max_attempts + 1):
        held = lease(database, job_id)
        assert held.number == number and held.last_sequence == 0
        with database.writing() as session:
            queue.lose(session, held, RULES, message="the worker is gone")
    job = read(database, job_id)
    assert (job.status, job.error_code, job.attempts) == ("failed", "worker_lost", 3)
    with database.reading() as session:
        assert [attempt.outcome for attempt in jobs.attempts(session, job_id)] == ["lost"] * 3


def test_an_explanation_is_a_change(database: Database, recipe: Recipe) -> None:
    before = read(database, enqueue(database, recipe))
    with database.writing() as session:
        session.execute(update(Job).values(updated_at=0.0))
        queue.explain(session, before.id, "waits until 1 CPU is free")
        queue.explain(session, before.id, "waits until 1 CPU is free")
    after = read(database, before.id)
    assert after.version == before.version + 1 and after.updated_at >= before.updated_at


def test_backoff_delays_but_keeps_the_place(database: Database, recipe: Recipe) -> None:
    first, second = enqueue(database, recipe), enqueue(database, recipe)
    with database.writing() as session:
        session.execute(update(Job).where(Job.id == second).values(created_at=Job.created_at + 1))
    held = lease(database, first)
    with database.writing() as session:
        queue.give_up(session, held, RetryRules(first_wait_seconds=60), Ending("transient", "transient", "away"))
        assert [job.id for job in backlog.waiting(session, 10)] == [second]
        assert queue.lease(session, first, owner="one", seconds=15) is None
        session.execute(update(Job).where(Job.id == first).values(not_before=0))
        assert [job.id for job in backlog.waiting(session, 10)] == [first, second]


def test_cancel_a_waiting_job(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    with database.writing() as session:
        assert jobs.cancel(session, job_id).status == "cancelled"
        assert jobs.cancel(session, job_id).status == "cancelled"
    assert [event.type for event in history(database, job_id)] == ["job_queued", "job_cancelled"]


def test_cancel_a_running_job(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    with database.writing() as session:
        assert jobs.cancel(session, job_id).status == "cancelling"
        version = jobs.cancel(session, job_id).version
        assert jobs.cancel(session, job_id).version == version
        assert backlog.stopping(session, "one") == [job_id]
        queue.finish_stopping(session, held)
    assert read(database, job_id).status == "cancelled"


@pytest.mark.parametrize(
    "last", [Succeeded(results=Results()), Failed(fault="transient", code="transient", message="away")]
)
def test_whatever_comes_a_cancelling_job_ends_cancelled(database: Database, recipe: Recipe, last: Event) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    with database.writing() as session:
        jobs.cancel(session, job_id)
    apply(database, held, last)
    assert read(database, job_id).status == "cancelled"


def test_cancel_what_has_ended_or_never_was(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    apply(database, lease(database, job_id), Succeeded(results=Results()))
    with pytest.raises(Conflict, match="succeeded"), database.writing() as session:
        jobs.cancel(session, job_id)
    with pytest.raises(NotFound), database.writing() as session:
        jobs.cancel(session, "job_none")


def test_every_change_grows_the_version(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    versions = [read(database, job_id).version]
    held = lease(database, job_id)
    for reported in (progress(1), progress(2), Succeeded(results=Results())):
        versions.append(read(database, job_id).version)
        apply(database, held, reported, first=len(versions) - 1)
    versions.append(read(database, job_id).version)
    assert versions == sorted(set(versions))
    with database.writing() as session:
        queue.explain(session, job_id, "no longer queued")
    assert read(database, job_id).reason is None


def test_the_table_is_closed_and_ends() -> None:
    assert set(LEGAL) == set(Status)
    assert {Status.CANCELLED, Status.SUCCEEDED, Status.FAILED} == FINAL
    assert {final for final in FINAL if LEGAL[final]} == {Status.FAILED, Status.CANCELLED}
    assert all(LEGAL[final] <= {Status.QUEUED} for final in FINAL)


COMMANDS = [
    "lease",
    "lose",
    "recipe",
    "transient",
    "succeed",
    "progress",
    "cancel",
    "pause",
    "resume",
    "retry",
    "stopped",
    "expire",
    "adopt",
    "renew",
]
WISHES = ("cancel", "pause", "resume", "retry")


@given(commands=st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=30))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_of_commands_leaves_the_table(database: Database, recipe: Recipe, commands: list[str]) -> None:
    job_id = enqueue(database, recipe)
    held: list[Lease] = []
    for command in commands:
        before = read(database, job_id)
        with contextlib.suppress(Conflict, LeaseLost):
            _command(database, job_id, held, command)
        after = read(database, job_id)
        assert after.status == before.status or Status(after.status) in LEGAL[Status(before.status)]
        assert (after.lease_token is not None) == (after.status in ("running", "pausing", "cancelling"))
        assert (after.finished_at is not None) == (Status(after.status) in FINAL)
        assert after.version > before.version or after.status == before.status
    told = history(database, job_id)
    assert [event.number for event in told] == list(range(1, read(database, job_id).last_event + 1))
    with database.reading() as session:
        attempts: list[Attempt] = jobs.attempts(session, job_id)
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert sum(attempt.outcome is None for attempt in attempts) <= 1


def _command(database: Database, job_id: str, held: list[Lease], command: str) -> None:
    """Old leases are used on purpose: they must be refused."""
    if command == "expire":
        return expire(database, job_id)
    with database.writing() as session:
        if command in ("lease", "adopt"):
            taken = (queue.lease if command == "lease" else queue.adopt)(session, job_id, owner="one", seconds=15)
            held.extend([taken] if taken else [])
        elif command in WISHES:
            getattr(queue, command)(session, job_id)
        if not held or command in ("lease", "adopt", *WISHES):
            return None
        mine = held[-1]
        reached = session.get_one(Attempt, mine.attempt_id).last_sequence
        reports: dict[str, Event] = {
            "recipe": Failed(fault="recipe", code="invalid_recipe", message="no"),
            "transient": Failed(fault="transient", code="transient", message="away"),
            "succeed": Succeeded(results=Results()),
            "progress": progress(1),
        }
        if command in reports:
            queue.apply(session, mine, [NumberedEvent(sequence=reached + 1, event=reports[command])], RULES)
        elif command == "lose":
            queue.lose(session, mine, RULES, message="gone")
        elif command == "stopped":
            queue.finish_stopping(session, mine)
        elif command == "renew":
            queue.renew(session, mine, seconds=15)
    return None
