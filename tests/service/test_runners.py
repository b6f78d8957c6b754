"""One conformance suite for both runners, then what only Ray can show: killed processes, adoption across drivers."""

import dataclasses
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import update

from service import events, jobs, queue
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Job
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.inline_runner import InlineRunner
from service.dispatch.runner import Capacity, News, Runner
from service.settings import Settings
from tests.service.deadlines import eventually
from tests.service.torchfree_pipelines import STEPS
from workers.actor import Order, SearchOrder
from workers.contracts.events import Failed, NumberedEvent, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe, Resources
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord
from workers.local_store import LocalStore

HERE = "tests.service.torchfree_pipelines"
ENGINES = "tests.service.torchfree_engines"


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.ray)])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    runner: Runner = InlineRunner(cpus=2) if request.param == "inline" else request.getfixturevalue("ray_runner")
    yield runner
    for attempt_id in runner.attempts():
        runner.stop(attempt_id)


def order(recipe: Recipe, tmp_path: Path, pipeline: str) -> Order:
    return Order(
        attempt_id=f"att_{uuid.uuid4().hex}",
        owner="job_1",
        recipe=recipe.model_dump(mode="json"),
        places=Places().model_dump(mode="json"),
        store=LocalStore(tmp_path / "artifacts"),
        pipeline=f"{HERE}:{pipeline}",
    )


def collect(runner: Runner, attempt_id: str, after: int = 0) -> list[NumberedEvent]:
    """All events from a sequence on, up to the last word."""
    found: list[NumberedEvent] = []

    def ask() -> None:
        runner.follow(attempt_id, after + len(found))
        for news in runner.wait(5.0):
            assert news.attempt_id == attempt_id and news.ending is None
            found.extend(news.events)

    eventually(lambda: bool(found) and isinstance(found[-1].event, Succeeded | Failed), ask)
    return found


def test_events_come_in_order_to_the_last_word(runner: Runner, recipe: Recipe, tmp_path: Path) -> None:
    wanted = order(recipe, tmp_path, "whole")
    runner.start(wanted)
    found = collect(runner, wanted.attempt_id)
    assert [item.sequence for item in found] == list(range(1, STEPS + 6))
    assert wanted.store.find("0" * 64) is None
    # What is not yet committed may be asked for again.
    assert collect(runner, wanted.attempt_id, after=found[-2].sequence) == found[-1:]


def test_a_broken_pipeline_still_has_a_last_word(runner: Runner, recipe: Recipe, tmp_path: Path) -> None:
    wanted = order(recipe, tmp_path, "breaks")
    runner.start(wanted)
    last = collect(runner, wanted.attempt_id)[-1].event
    assert isinstance(last, Failed) and (last.fault, last.code) == ("transient", "attempt_broke")


def test_only_what_is_there_can_be_attached(runner: Runner, recipe: Recipe, tmp_path: Path) -> None:
    wanted = order(recipe, tmp_path, "gated")
    runner.start(wanted)
    assert runner.attach(wanted.attempt_id)
    assert not runner.attach("att_none")
    assert wanted.attempt_id in runner.attempts()


def test_stop_ends_it_and_frees_its_room(runner: Runner, recipe: Recipe, tmp_path: Path) -> None:
    wanted = order(recipe, tmp_path, "gated")
    runner.start(wanted)
    runner.follow(wanted.attempt_id, 0)
    assert runner.wait(30.0)
    runner.stop(wanted.attempt_id)
    runner.stop(wanted.attempt_id)
    eventually(lambda: not runner.attach(wanted.attempt_id), lambda: runner.wait(0.05))
    eventually(lambda: runner.free() == runner.total(), lambda: runner.wait(0.05))


def test_an_attempt_that_is_not_there_is_lost(runner: Runner) -> None:
    runner.follow("att_none", 0)
    (news,) = runner.wait(5.0)
    assert news.attempt_id == "att_none" and news.ending is not None
    assert (news.ending.fault, news.ending.code) == ("transient", queue.WORKER_LOST)
    assert runner.wait(0.01) == []


def test_waiting_without_questions_returns_in_time(runner: Runner) -> None:
    assert runner.wait(0.01) == []
    assert runner.total().cpus >= 1
    assert not runner.recover()


def test_room_is_counted() -> None:
    room = Capacity(2, 0)
    assert room.times(Resources(cpus=1)) == 2 and room.times(Resources(gpus=1)) == 0
    assert Capacity(8, 3).times(Resources(cpus=2, gpus=1)) == 3
    assert room.minus(Resources(cpus=3)) == Capacity(-1, 0)
    assert Capacity(-1, 0).times(Resources()) == 0


@pytest.mark.ray
def test_the_worker_sees_its_threads_no_gpu_and_equal_sums(ray_runner: Any, recipe: Recipe, tmp_path: Path) -> None:
    wanted = order(recipe.model_copy(update={"resources": Resources(cpus=2)}), tmp_path, "environment")
    ray_runner.start(wanted)
    threads, gpus, cublas, workspace, _ = (item.event for item in collect(ray_runner, wanted.attempt_id))
    assert threads.message == "threads 2" and gpus.message == "gpus ''"
    assert cublas.message == "cublas :4096:8"
    assert not Path(workspace.message.removeprefix("workspace ")).exists()
    ray_runner.stop(wanted.attempt_id)


@pytest.mark.ray
def test_a_search_leads_and_leaves_the_room_to_its_trials(
    ray_runner: Any, recipe: Recipe, search: Search, tmp_path: Path
) -> None:
    wanted = order(recipe.model_copy(update={"resources": Resources(cpus=2)}), tmp_path, "whole")
    record = SearchRecord().model_dump(mode="json")
    led = SearchOrder(search.model_dump(mode="json"), record, 1, f"{ENGINES}:environment")
    wanted = dataclasses.replace(wanted, search=led)
    ray_runner.start(wanted)
    told = [item.event.message for item in collect(ray_runner, wanted.attempt_id)[:-1]]
    assert told == [
        "OMP_NUM_THREADS '2'",
        "TUNE_DISABLE_SIGINT_HANDLER '1'",
        "CUDA_VISIBLE_DEVICES ''",
        "resources []",
    ]
    ray_runner.stop(wanted.attempt_id)


@pytest.mark.ray
def test_the_handler_is_kept_even_if_connecting_fails(ray_runner: Any) -> None:
    from service.dispatch.ray_runner import _handlers_kept

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), _handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


class RayBench:
    """Jobs on the real thing."""

    def __init__(self, database: Database, settings: Settings, folder: Path) -> None:
        self.database, self.settings, self.folder = database, settings, folder

    def dispatcher(self, runner: Runner, pipeline: str = "gated") -> Dispatcher:
        store = LocalStore(self.settings.state_dir / "artifacts")
        settings = self.settings.model_copy(update={"pipeline": f"{HERE}:{pipeline}"})
        return Dispatcher(self.database, runner, store, settings)

    def submit(self, recipe: Recipe) -> str:
        with self.database.writing() as session:
            return queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0).id

    def job(self, job_id: str) -> Job:
        with self.database.reading() as session:
            return jobs.get(session, job_id)

    def told(self, job_id: str, type: str) -> list[Any]:
        with self.database.reading() as session:
            found = events.listing(session, job_id, after=0, limit=10_000)
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        return [event for event in found if event.type == type]


@pytest.fixture
def bench(database: Database, settings: Settings, tmp_path: Path) -> RayBench:
    return RayBench(database, settings, tmp_path)


@pytest.mark.ray
def test_a_killed_worker_is_replaced_and_goes_on_from_its_checkpoint(
    bench: RayBench, ray_runner: Any, recipe: Recipe
) -> None:
    dispatcher = bench.dispatcher(ray_runner)
    job_id = bench.submit(recipe)
    eventually(lambda: bool(bench.told(job_id, "checkpoint_saved")), dispatcher.tick)
    pid = int(bench.told(job_id, "notice")[0].body["message"].removeprefix("pid "))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: bool(bench.told(job_id, "checkpoint_loaded")), dispatcher.tick)
    (bench.folder / "go").touch()
    eventually(lambda: bench.job(job_id).status == "succeeded", dispatcher.tick)
    with bench.database.reading() as session:
        assert [attempt.outcome for attempt in jobs.attempts(session, job_id)] == ["lost", "succeeded"]
    assert bench.told(job_id, "job_requeued")[0].body["code"] == "worker_lost"


@pytest.mark.ray
def test_a_new_dispatcher_adopts_a_running_actor(bench: RayBench, ray_runner: Any, recipe: Recipe) -> None:
    first = bench.dispatcher(ray_runner)
    job_id = bench.submit(recipe)
    eventually(lambda: bool(bench.told(job_id, "progress")), first.tick)
    # The first is dead: it knows nothing any more, and its lease runs out.
    ray_runner._actors.clear()
    ray_runner._asked.clear()
    with bench.database.writing() as session:
        session.execute(update(Job).values(lease_expires_at=database_now() - 1))
    second = bench.dispatcher(ray_runner)
    eventually(lambda: bool(bench.told(job_id, "attempt_adopted")), second.tick)
    (bench.folder / "go").touch()
    eventually(lambda: bench.job(job_id).status == "succeeded", second.tick)
    assert bench.job(job_id).attempts == 1 and len(bench.told(job_id, "checkpoint_saved")) == 1
    seconds = [event.body["metrics"].get("seconds", 0.0) for event in bench.told(job_id, "progress")]
    assert seconds == sorted(set(seconds))
    eventually(lambda: ray_runner.attempts() == set(), second.tick)


@pytest.mark.ray
def test_cancel_kills_the_process(bench: RayBench, ray_runner: Any, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher(ray_runner)
    job_id = bench.submit(recipe)
    eventually(lambda: bool(bench.told(job_id, "notice")), dispatcher.tick)
    pid = int(bench.told(job_id, "notice")[0].body["message"].removeprefix("pid "))
    with bench.database.writing() as session:
        jobs.cancel(session, job_id)
    eventually(lambda: bench.job(job_id).status == "cancelled", dispatcher.tick)
    eventually(lambda: not psutil.pid_exists(pid), dispatcher.tick)


@pytest.mark.ray
def test_an_actor_that_nobody_asks_ends_itself(ray_runner: Any, recipe: Recipe, tmp_path: Path) -> None:
    wanted = order(recipe, tmp_path, "gated")
    object.__setattr__(wanted, "unpolled_seconds", 0.3)
    ray_runner.start(wanted)
    eventually(lambda: wanted.attempt_id not in ray_runner.attempts(), lambda: ray_runner.wait(0.1))


def test_an_unreadable_event_keeps_its_number() -> None:
    from service.dispatch.runner import read_answer

    answer = {"node": "here", "events": [{"sequence": 1, "event": {"type": "of_tomorrow"}}]}
    news: News = read_answer("att_1", answer)
    assert news.events[0].sequence == 1 and news.events[0].event.type == "notice"
