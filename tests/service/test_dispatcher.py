"""The dispatcher with the inline runner: whole lives of jobs, adoption, cancel, racing dispatchers."""

import contextlib
import threading
from typing import Any

import pytest
from sqlalchemy import Connection, event, update
from sqlalchemy.exc import OperationalError

from service import jobs, queue
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Attempt, Job
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.inline_runner import InlineRunner
from tests.service.bench import PIPELINES, Bench
from tests.service.deadlines import eventually
from workers.contracts.recipe import Recipe
from workers.local_store import LocalStore


def test_a_job_goes_all_the_way(bench: Bench, recipe: Recipe) -> None:
    job_id = bench.submit(recipe.model_copy(update={"seed": 5}))
    job = bench.until(job_id, "succeeded", bench.dispatcher("whole"))
    assert job.results == {"pruned": {"parameters": 7, "perplexity": {"text": 5.0}}}
    assert bench.types(job_id) == [
        "job_queued",
        "attempt_started",
        "stage_started",
        *["progress"] * 5,
        "artifact_stored",
        "measured",
        "stage_finished",
        "pipeline_succeeded",
        "job_succeeded",
    ]
    assert bench.runner.attempts() == set()


def test_several_attempts_at_once_within_the_room(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    ids = [bench.submit(recipe) for _ in range(3)]
    eventually(lambda: [bench.job(id).status for id in ids].count("running") == 2, dispatcher.tick)
    eventually(lambda: any("waits until" in (bench.job(id).reason or "") for id in ids), dispatcher.tick)
    assert [bench.job(id).status for id in ids].count("running") == 2
    (bench.folder / "go").touch()
    for job_id in ids:
        assert bench.until(job_id, "succeeded", dispatcher).reason is None


def test_a_large_job_at_the_head_is_not_starved(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    first = bench.submit(recipe)
    bench.until(first, "running", dispatcher)
    large, small = bench.submit(recipe, cpus=2), bench.submit(recipe)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == small).values(created_at=Job.created_at + 1))
    eventually(lambda: bench.job(large).reason is not None, dispatcher.tick)
    assert bench.job(small).status == "queued"


def test_what_can_never_fit_waits_with_a_reason_and_blocks_nobody(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("whole")
    never, other = bench.submit(recipe, gpus=1), bench.submit(recipe)
    bench.until(other, "succeeded", dispatcher)
    job = bench.job(never)
    assert job.status == "queued" and "the whole cluster has" in (job.reason or "")


def test_retry_after_a_passing_fault(bench: Bench, recipe: Recipe) -> None:
    job_id = bench.submit(recipe)
    assert bench.until(job_id, "succeeded", bench.dispatcher("passing_fault")).attempts == 2
    requeued = next(event for event in bench.told(job_id) if event.type == "job_requeued")
    assert requeued.body["code"] == "transient" and requeued.body["outcome"] == "failed"


def test_out_of_memory_fails_with_its_advice(bench: Bench, recipe: Recipe) -> None:
    job = bench.until(bench.submit(recipe), "failed", bench.dispatcher("out_of_memory"))
    assert (job.attempts, job.error_code) == (1, "out_of_memory") and "batch_size" in (job.error_message or "")


def test_a_pipeline_that_breaks_is_retried_to_the_cap(bench: Bench, recipe: Recipe) -> None:
    job = bench.until(bench.submit(recipe), "failed", bench.dispatcher("breaks"))
    assert (job.attempts, job.error_code) == (bench.settings.max_attempts, "attempt_broke")
    assert "unforeseen" in (job.error_message or "")


def test_cancel_stops_the_attempt(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    bench.until(job_id, "running", dispatcher)
    with bench.database.writing() as session:
        jobs.cancel(session, job_id)
    bench.until(job_id, "cancelled", dispatcher)
    assert bench.runner.attempts() == set()
    assert "job_cancelling" in bench.types(job_id) and bench.types(job_id)[-1] == "job_cancelled"


def test_a_cancel_outlives_its_dispatcher(bench: Bench, recipe: Recipe) -> None:
    first = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    bench.until(job_id, "running", first)
    with bench.database.writing() as session:
        jobs.cancel(session, job_id)
    bench.expire()
    bench.until(job_id, "cancelled", bench.dispatcher("gated"))
    assert bench.runner.attempts() == set()


def test_a_new_dispatcher_adopts_the_same_attempt(bench: Bench, recipe: Recipe) -> None:
    first = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    eventually(lambda: "progress" in bench.types(job_id), first.tick)
    bench.expire()
    second = bench.dispatcher("gated")
    eventually(lambda: "attempt_adopted" in bench.types(job_id), second.tick)
    (bench.folder / "go").touch()
    assert bench.until(job_id, "succeeded", second).attempts == 1
    seconds = [event.body["metrics"].get("seconds", 0.0) for event in bench.told(job_id) if event.type == "progress"]
    assert seconds == sorted(set(seconds))


def test_what_lost_dispatcher_and_worker_is_tried_again(bench: Bench, recipe: Recipe) -> None:
    first = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    eventually(lambda: "checkpoint_saved" in bench.types(job_id), first.tick)
    bench.runner = InlineRunner(cpus=2)
    bench.expire()
    second = bench.dispatcher("gated")
    eventually(lambda: "checkpoint_loaded" in bench.types(job_id), second.tick)
    assert bench.job(job_id).attempts == 2
    (bench.folder / "go").touch()
    bench.until(job_id, "succeeded", second)


def test_a_dispatcher_that_lost_its_lease_lets_go(bench: Bench, recipe: Recipe) -> None:
    first = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    eventually(lambda: "progress" in bench.types(job_id), first.tick)
    with bench.database.writing() as session:
        session.execute(update(Job).values(lease_token="somebody else's", lease_owner="two"))
    before = len(bench.told(job_id))
    eventually(lambda: not first._held, first.tick)
    assert len(bench.told(job_id)) == before
    assert len(bench.runner.attempts()) == 1, "somebody else follows this worker now"


def test_leases_are_renewed(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    bench.until(job_id, "running", dispatcher)
    first = bench.job(job_id).lease_expires_at or 0.0
    eventually(lambda: (bench.job(job_id).lease_expires_at or 0.0) > first, dispatcher.tick)


def test_workers_of_ended_attempts_are_reaped(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    bench.until(job_id, "running", dispatcher)
    (attempt_id,) = bench.runner.attempts()
    # The dispatcher dies between the commit of the end and the stopping of the worker.
    dispatcher._held.clear()
    with bench.database.writing() as session:
        session.execute(update(Job).values(lease_expires_at=database_now() - 1))
        lease = queue.adopt(session, job_id, owner="gone", seconds=15)
        assert lease is not None
        queue.lose(session, lease, bench.settings.retry_rules, message="gone")
    eventually(lambda: attempt_id not in bench.runner.attempts(), dispatcher.tick)


def test_two_dispatchers_share_one_database(bench: Bench, recipe: Recipe) -> None:
    ids = [bench.submit(recipe) for _ in range(10)]
    stop = threading.Event()
    databases = [Database(bench.database.url) for _ in range(2)]
    runners = [InlineRunner(cpus=2) for _ in range(2)]
    store = LocalStore(bench.settings.state_dir / "artifacts")
    settings = bench.settings.model_copy(update={"pipeline": f"{PIPELINES}:whole"})
    threads = [
        threading.Thread(target=Dispatcher(database, runner, store, settings).run_forever, args=(stop,))
        for database, runner in zip(databases, runners, strict=True)
    ]
    for thread in threads:
        thread.start()
    pause = threading.Event()
    eventually(lambda: all(bench.job(id).status == "succeeded" for id in ids), lambda: pause.wait(0.05))
    stop.set()
    for thread in threads:
        thread.join()
    for job_id in ids:
        assert bench.job(job_id).attempts == 1
        assert bench.types(job_id).count("pipeline_succeeded") == 1
    for database in databases:
        database.dispose()


def test_a_dispatcher_told_to_stop_leaves_its_attempts_to_the_next(bench: Bench, recipe: Recipe) -> None:
    first = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    bench.until(job_id, "running", first)
    stopped = threading.Event()
    stopped.set()
    first.run_forever(stopped)
    second = bench.dispatcher("gated")
    eventually(lambda: "attempt_adopted" in bench.types(job_id), second.tick)


def disk_is_full(*_: Any, **__: Any) -> None:
    raise OperationalError("COMMIT", {}, Exception("database or disk is full"))


def test_a_failed_commit_loses_no_events(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    eventually(lambda: "progress" in bench.types(job_id), dispatcher.tick)
    failures = iter(range(5))

    def commit(connection: Connection) -> None:
        if next(failures, None) is not None:
            connection.connection.rollback()
            disk_is_full()

    event.listen(bench.database.engine, "commit", commit)
    for _ in range(20):
        with contextlib.suppress(OperationalError):
            dispatcher.tick()
    assert next(failures, None) is None
    (bench.folder / "go").touch()
    assert bench.until(job_id, "succeeded", dispatcher).attempts == 1
    with bench.database.reading() as session:
        reached = jobs.attempts(session, job_id)[0].last_sequence
    assert len([told for told in bench.told(job_id) if told.attempt_id]) == reached + 2, "each event is told once"


def test_an_attempt_whose_next_events_are_gone_is_lost(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    eventually(lambda: "progress" in bench.types(job_id), dispatcher.tick)
    # As if the database were an older copy: the worker has long forgotten what this one lacks.
    with bench.database.writing() as session:
        session.execute(update(Attempt).values(last_sequence=0))
    for held in dispatcher._held.values():
        held.last_sequence = 0
    eventually(lambda: "job_requeued" in bench.types(job_id), dispatcher.tick)
    (bench.folder / "go").touch()
    assert bench.until(job_id, "succeeded", dispatcher).attempts == 2


def test_what_could_not_be_started_is_let_go_though_it_cannot_be_written(
    bench: Bench, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = bench.dispatcher("whole")
    job_id = bench.submit(recipe)
    with monkeypatch.context() as broken:
        broken.setattr(bench.runner, "start", disk_is_full)
        broken.setattr(queue, "lose", disk_is_full)
        with pytest.raises(OperationalError):
            dispatcher.tick()
    assert bench.job(job_id).status == "running" and not dispatcher._held
    bench.expire()
    assert bench.until(job_id, "succeeded", dispatcher).attempts == 2


def test_a_lost_cluster_is_survived_though_it_cannot_be_written(
    bench: Bench, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / "go").touch()
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    dispatcher.tick()
    with monkeypatch.context() as broken:
        broken.setattr(bench.runner, "recover", lambda: not bench.runner._shells.clear())
        broken.setattr(bench.runner, "wait", lambda _seconds: [])
        broken.setattr(queue, "lose", disk_is_full)
        dispatcher._duties[1].due_at = 0.0
        with pytest.raises(OperationalError):
            dispatcher.tick()
    dispatcher.tick()
    bench.runner._asked.clear()
    bench.runner._taken.clear()
    bench.expire()
    assert bench.until(job_id, "succeeded", dispatcher).attempts == 2


def test_an_attempt_that_the_runner_does_not_know_is_tried_again(bench: Bench, recipe: Recipe) -> None:
    (bench.folder / "go").touch()
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe)
    dispatcher.tick()
    (attempt_id,) = bench.runner.attempts()
    bench.runner.stop(attempt_id)
    for held in dispatcher._held.values():
        held.asked = False
    assert bench.until(job_id, "succeeded", dispatcher).attempts == 2


def test_any_number_that_can_never_fit_blocks_nobody(bench: Bench, recipe: Recipe) -> None:
    never = [bench.submit(recipe, gpus=1) for _ in range(70)]
    other = bench.submit(recipe)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == other).values(created_at=Job.created_at + 1))
    bench.until(other, "succeeded", bench.dispatcher("whole"))
    assert all("the whole cluster has" in (bench.job(job_id).reason or "") for job_id in never)


def test_rows_of_another_version_block_nobody(bench: Bench, recipe: Recipe) -> None:
    running, waiting = bench.submit(recipe), bench.submit(recipe, cpus=2)
    with bench.database.writing() as session:
        assert queue.lease(session, running, owner="of tomorrow", seconds=60)
        for job_id in (running, waiting):
            plain = session.get_one(Job, job_id).recipe
            changed = {**plain, "of_tomorrow": 1, "resources": {**plain["resources"], "of_tomorrow": 1}}
            session.execute(update(Job).where(Job.id == job_id).values(recipe=changed))
    dispatcher = bench.dispatcher("whole")
    bench.until(bench.submit(recipe), "succeeded", dispatcher)
    assert "another version" in (bench.job(waiting).reason or "")
    bench.expire()
    eventually(lambda: "another version" in (bench.job(running).reason or ""), dispatcher.tick)
