"""Pausing and resuming: at once or through the dispatcher, under any race, and never a failed try."""

from typing import Any

import pytest
from sqlalchemy import update

from service import backlog, jobs, queue
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Job
from service.domain.job import FINAL, LEGAL, Status
from service.domain.lease import Lease
from service.errors import Conflict, LeaseLost, NotFound
from tests.service.bench import Bench
from tests.service.deadlines import eventually
from tests.service.test_queue import RULES, apply, enqueue, expire, history, lease, progress, read
from workers.contracts.events import CheckpointSaved, Event, Failed, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results


def told(database: Database, verb: str, job_id: str) -> str:
    with database.writing() as session:
        job: Job = getattr(jobs, verb)(session, job_id)
        return job.status


def stopped(database: Database, held: Lease) -> None:
    with database.writing() as session:
        queue.finish_stopping(session, held)


def types(database: Database, job_id: str) -> list[str]:
    return [event.type for event in history(database, job_id)]


def outcomes(database: Database, job_id: str) -> list[str | None]:
    with database.reading() as session:
        return [attempt.outcome for attempt in jobs.attempts(session, job_id)]


def test_what_waits_is_paused_at_once_and_resumed_at_its_old_place(database: Database, recipe: Recipe) -> None:
    first, second = enqueue(database, recipe), enqueue(database, recipe)
    with database.writing() as session:
        session.execute(update(Job).where(Job.id == second).values(created_at=Job.created_at + 1))
        queue.explain(session, first, "waits until 1 CPU and 0 GPU are free")
    assert told(database, "pause", first) == told(database, "pause", first) == "paused"
    assert read(database, first).reason is None
    with database.writing() as session:
        assert [job.id for job in backlog.waiting(session, 10)] == [second]
        assert queue.lease(session, first, owner="one", seconds=15) is None
    assert told(database, "resume", first) == told(database, "resume", first) == "queued"
    with database.reading() as session:
        assert [job.id for job in backlog.waiting(session, 10)] == [first, second]
    assert types(database, first) == ["job_queued", "job_paused", "job_resumed"]


def test_what_runs_is_paused_once_its_worker_is_no_more(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    apply(database, held, progress(3))
    assert told(database, "pause", job_id) == told(database, "pause", job_id) == "pausing"
    with database.reading() as session:
        assert backlog.stopping(session, "one") == [job_id] and backlog.stopping(session, "two") == []
    # Until then the attempt still reports.
    apply(database, held, progress(4), first=2)
    stopped(database, held)
    job = read(database, job_id)
    assert (job.status, job.stage, job.progress, job.lease_token, job.finished_at) == ("paused", None, None, None, None)
    assert outcomes(database, job_id) == ["paused"]
    assert types(database, job_id)[-3:] == ["job_pausing", "progress", "job_paused"]
    with pytest.raises(LeaseLost):
        stopped(database, held)
    assert told(database, "resume", job_id) == "queued"
    assert lease(database, job_id).number == 2


def test_pauses_are_no_failed_tries(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    for _ in range(RULES.max_attempts + 2):
        held = lease(database, job_id)
        told(database, "pause", job_id)
        stopped(database, held)
        told(database, "resume", job_id)
    for _ in range(RULES.max_attempts - 1):
        with database.writing() as session:
            queue.lose(session, lease_of(session, job_id), RULES, message="gone")
    assert read(database, job_id).status == "queued"
    with database.writing() as session:
        queue.lose(session, lease_of(session, job_id), RULES, message="gone")
    job = read(database, job_id)
    assert (job.status, job.attempts) == ("failed", 2 * RULES.max_attempts + 2)


def lease_of(session: Any, job_id: str) -> Lease:
    held = queue.lease(session, job_id, owner="one", seconds=15)
    assert held is not None
    return held


def test_a_pause_after_progress_leaves_the_count_at_its_beginning(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    apply(database, held, CheckpointSaved(stage="regularize", step=3))
    told(database, "pause", job_id)
    stopped(database, held)
    told(database, "resume", job_id)
    held = lease(database, job_id)
    with database.reading() as session:
        assert backlog.tries(session, read(database, job_id)) == 1


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (Succeeded(results=Results()), "succeeded"),
        (Failed(fault="recipe", code="invalid_recipe", message="no"), "failed"),
        (Failed(fault="transient", code="transient", message="away"), "paused"),
    ],
)
def test_an_attempt_may_end_before_the_pause_reaches_it(
    database: Database, recipe: Recipe, last: Event, status: str
) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    told(database, "pause", job_id)
    apply(database, held, last)
    assert read(database, job_id).status == status
    assert outcomes(database, job_id) == ["succeeded" if status == "succeeded" else "failed"]


def test_a_worker_lost_meanwhile_leaves_the_job_paused(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    lease(database, job_id)
    told(database, "pause", job_id)
    expire(database, job_id)
    with database.writing() as session:
        heir = queue.adopt(session, job_id, owner="two", seconds=15)
        assert heir is not None
        queue.lose(session, heir, RULES, message="both gone")
    assert read(database, job_id).status == "paused" and outcomes(database, job_id) == ["paused"]
    assert read(database, job_id).error_code is None


def test_a_pause_may_be_taken_back(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    told(database, "pause", job_id)
    assert told(database, "resume", job_id) == told(database, "resume", job_id) == "running"
    apply(database, held, Succeeded(results=Results()))
    assert read(database, job_id).status == "succeeded"


def test_what_is_resumed_while_its_worker_is_stopped_begins_anew(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    told(database, "pause", job_id)
    told(database, "resume", job_id)
    stopped(database, held)
    job = read(database, job_id)
    assert job.status == "queued" and outcomes(database, job_id) == ["paused"]
    assert types(database, job_id)[-1] == "job_requeued"
    assert lease(database, job_id).number == 2, "at once"


def test_cancel_is_heard_in_every_status(database: Database, recipe: Recipe) -> None:
    paused, pausing = enqueue(database, recipe), enqueue(database, recipe)
    told(database, "pause", paused)
    assert told(database, "cancel", paused) == "cancelled"
    held = lease(database, pausing)
    told(database, "pause", pausing)
    assert told(database, "cancel", pausing) == "cancelling"
    for verb in ("pause", "resume"):
        with pytest.raises(Conflict, match="is cancelling"):
            told(database, verb, pausing)
    stopped(database, held)
    assert read(database, pausing).status == "cancelled"
    for verb in ("pause", "resume"):
        with pytest.raises(Conflict, match="is cancelled"):
            told(database, verb, pausing)
        with pytest.raises(NotFound):
            told(database, verb, "job_none")


def test_what_has_ended_is_not_paused(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    apply(database, lease(database, job_id), Succeeded(results=Results()))
    for verb in ("pause", "resume"):
        with pytest.raises(Conflict, match="has already succeeded"):
            told(database, verb, job_id)


def test_the_table_of_legal_moves_knows_no_way_past_a_pause() -> None:
    assert Status.QUEUED not in LEGAL[Status.PAUSING]
    assert LEGAL[Status.PAUSED] == {Status.QUEUED, Status.CANCELLED}
    assert all(Status.CANCELLED in LEGAL[s] or Status.CANCELLING in LEGAL[s] for s in Status if s not in FINAL)


def test_the_dispatcher_stops_what_is_pausing(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    eventually(lambda: "checkpoint_saved" in bench.types(job_id), dispatcher.tick)
    assert told(bench.database, "pause", job_id) == "pausing"
    bench.until(job_id, "paused", dispatcher)
    assert bench.runner.attempts() == set() and bench.outcomes(job_id) == ["paused"]
    other = bench.submit(recipe, cpus=2)
    bench.until(other, "running", dispatcher)  # all that the paused one held is free
    assert told(bench.database, "resume", job_id) == "queued"
    (bench.folder / "go").touch()
    assert bench.until(job_id, "succeeded", dispatcher).attempts == 2
    assert "checkpoint_loaded" in bench.types(job_id) and "job_requeued" not in bench.types(job_id)


def test_a_pause_outlives_its_dispatcher(bench: Bench, recipe: Recipe) -> None:
    job_id = bench.submit(recipe)
    bench.until(job_id, "running", bench.dispatcher("gated"))
    told(bench.database, "pause", job_id)
    bench.expire()
    bench.until(job_id, "paused", bench.dispatcher("gated"))
    assert bench.runner.attempts() == set() and bench.outcomes(job_id) == ["paused"]


def test_a_worker_that_the_pause_could_not_write_down_is_stopped_again(
    bench: Bench, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    bench.until(job_id, "running", dispatcher)
    told(bench.database, "pause", job_id)
    with monkeypatch.context() as broken:
        broken.setattr(queue, "finish_stopping", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            eventually(lambda: False, dispatcher.tick)
    bench.until(job_id, "paused", dispatcher)
    with bench.database.writing() as session:
        session.execute(update(Job).values(lease_expires_at=database_now() - 1))
        assert backlog.expired(session, 10) == []
