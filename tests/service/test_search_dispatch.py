"""Whole lives of searches with the inline runner: trials told and kept, adoption, lost attempts, pauses, room."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from service import searches
from service.artifacts import catalog
from service.database import tables
from service.database.tables import Job
from service.dispatch.inline_runner import InlineRunner
from service.dispatch.room import Room
from service.dispatch.runner import Capacity
from tests.service.bench import Bench
from tests.service.deadlines import eventually
from workers.contracts.recipe import Recipe, Resources
from workers.contracts.search import Search


def changed(search: Search, **changes: Any) -> Search:
    return search.model_copy(update=changes)


def in_base(search: Search, **sections: Any) -> Search:
    return search.model_copy(update={"base": search.base | sections})


def notices(bench: Bench, search_id: str) -> list[str]:
    return [event.body["message"] for event in bench.told(search_id) if event.type == "notice"]


def ends(bench: Bench, search_id: str) -> list[int]:
    return [event.body["trial"] for event in bench.told(search_id) if event.type == "trial_finished"]


def told(bench: Bench, verb: str, search_id: str) -> str:
    with bench.database.writing() as session:
        job: Job = getattr(searches, verb)(session, search_id)
        return job.status


def first_trial_ended(bench: Bench, search_id: str) -> bool:
    """And the second has told that it is under way."""
    rows = bench.trials(search_id)
    return len(rows) == 2 and rows[0].finished is not None and (rows[1].progress or {}).get("seconds") == 1.0


def test_a_search_goes_all_the_way(bench: Bench, search: Search) -> None:
    (bench.folder / "go").touch()
    search_id = bench.submit_search(search)
    job = bench.until(search_id, "succeeded", bench.dispatcher("whole"))
    assert (job.results, job.stage, job.reason, job.attempts) == ({}, None, None, 1)
    rows = bench.trials(search_id)
    assert [(row.number, row.status, row.ended_as) for row in rows] == [(n, "succeeded", n) for n in (1, 2, 3)]
    assert rows[1].point == {"method.strength": 0.01}
    with bench.database.reading() as session:
        _, row = searches.get(session, search_id)
        assert (row.best, row.frontier) == (3, [3])
        assert [artifact.path for artifact in catalog.manifest(session, search_id)] == ["trial-3/model/config.json"]
    assert bench.types(search_id)[:3] == ["job_queued", "attempt_started", "notice"]
    assert bench.types(search_id)[-2:] == ["pipeline_succeeded", "job_succeeded"]
    assert notices(bench, search_id) == ["0 of 0 ended, 1 at once"]
    assert bench.runner.attempts() == set()


def test_a_search_may_fail(bench: Bench, search: Search) -> None:
    search_id = bench.submit_search(search)
    job = bench.until(search_id, "failed", bench.dispatcher("whole", engine="hopeless"))
    assert (job.error_code, job.attempts) == ("too_many_failed", 1)
    assert [row.status for row in bench.trials(search_id)] == ["failed", "stopped"]


def test_a_lost_search_goes_on_from_its_record(bench: Bench, search: Search) -> None:
    first = bench.dispatcher("whole")
    search_id = bench.submit_search(search)
    eventually(lambda: first_trial_ended(bench, search_id), first.tick)
    bench.runner = InlineRunner(cpus=2)
    bench.expire()
    second = bench.dispatcher("whole")
    eventually(lambda: len(notices(bench, search_id)) == 2, second.tick)
    (bench.folder / "go").touch()
    assert bench.until(search_id, "succeeded", second).attempts == 2
    assert notices(bench, search_id)[1] == "1 of 2 ended, 1 at once"
    assert ends(bench, search_id) == [1, 2, 3], "each trial ends once"
    assert bench.types(search_id).count("trial_proposed") == 3
    with bench.database.reading() as session:
        assert searches.record(session, search_id).wall_seconds > 0


def test_a_search_is_adopted_as_it_is(bench: Bench, search: Search) -> None:
    first = bench.dispatcher("whole")
    search_id = bench.submit_search(search)
    eventually(lambda: first_trial_ended(bench, search_id), first.tick)
    bench.expire()
    second = bench.dispatcher("whole")
    eventually(lambda: "attempt_adopted" in bench.types(search_id), second.tick)
    assert [row.status for row in bench.trials(search_id)] == ["succeeded", "running"]
    (bench.folder / "go").touch()
    assert bench.until(search_id, "succeeded", second).attempts == 1
    assert ends(bench, search_id) == [1, 2, 3] and len(notices(bench, search_id)) == 1


def test_a_paused_search_goes_on_where_it_was(bench: Bench, search: Search) -> None:
    dispatcher = bench.dispatcher("whole")
    search_id = bench.submit_search(search)
    eventually(lambda: first_trial_ended(bench, search_id), dispatcher.tick)
    assert told(bench, "pause", search_id) == "pausing"
    bench.until(search_id, "paused", dispatcher)
    assert [row.status for row in bench.trials(search_id)] == ["succeeded", "waiting"]
    assert bench.runner.attempts() == set() and bench.outcomes(search_id) == ["paused"]
    with bench.database.reading() as session:
        (left,) = [trial for trial in searches.record(session, search_id).trials if trial.finished is None]
    assert left.seconds == 1.0 and len(left.reports) == 1
    (bench.folder / "go").touch()
    assert told(bench, "resume", search_id) == "queued"
    bench.until(search_id, "succeeded", dispatcher)
    assert ends(bench, search_id) == [1, 2, 3] and notices(bench, search_id)[1] == "1 of 2 ended, 1 at once"


def test_stop_ends_a_search_and_leaves_what_it_found(bench: Bench, search: Search) -> None:
    dispatcher = bench.dispatcher("whole")
    search_id = bench.submit_search(search)
    eventually(lambda: first_trial_ended(bench, search_id), dispatcher.tick)
    assert told(bench, "stop", search_id) == "cancelling"
    job = bench.until(search_id, "cancelled", dispatcher)
    assert job.reason == "stopped after 1 of 3 trials, 1 more given up" and bench.runner.attempts() == set()
    assert [row.status for row in bench.trials(search_id)] == ["succeeded", "stopped"]
    with bench.database.reading() as session:
        assert searches.get(session, search_id)[1].best == 1
        assert [artifact.path for artifact in catalog.manifest(session, search_id)] == ["trial-1/model/config.json"]


def test_a_search_takes_room_for_all_its_trials_at_once(bench: Bench, search: Search, recipe: Recipe) -> None:
    bench.runner = InlineRunner(cpus=3)
    dispatcher = bench.dispatcher("gated")
    search_id = bench.submit_search(changed(search, concurrency=2))
    bench.until(search_id, "running", dispatcher)
    assert bench.runner.free() == Capacity(1, 0)
    small, large = bench.submit(recipe), bench.submit(recipe, cpus=2)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == large).values(created_at=Job.created_at + 1))
    bench.until(small, "running", dispatcher)
    eventually(lambda: bench.job(large).reason is not None, dispatcher.tick)
    assert bench.job(large).status == "queued"
    eventually(lambda: bool(notices(bench, search_id)), dispatcher.tick)
    assert notices(bench, search_id) == ["0 of 0 ended, 2 at once"]


def test_a_search_waits_for_its_room_and_keeps_it_reserved(bench: Bench, search: Search, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    first = bench.submit(recipe)
    bench.until(first, "running", dispatcher)
    search_id = bench.submit_search(changed(search, concurrency=2))
    eventually(lambda: bench.job(search_id).reason is not None, dispatcher.tick)
    assert bench.job(search_id).reason == "waits until 2 CPU and 0 GPU are free, for 2 trials at once"
    late = bench.submit(recipe)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == late).values(created_at=Job.created_at + 1))
    eventually(lambda: bench.job(late).reason is not None, dispatcher.tick)
    (bench.folder / "go").touch()
    for entry in (first, search_id, late):
        bench.until(entry, "succeeded", dispatcher)
    with bench.database.reading() as session:
        started = [session.get_one(Job, entry).started_at or 0 for entry in (search_id, late)]
    assert started == sorted(started)


def test_a_search_takes_fewer_at_once_on_a_small_cluster(bench: Bench, search: Search) -> None:
    dispatcher = bench.dispatcher("whole")
    search_id = bench.submit_search(changed(search, concurrency=3))
    eventually(lambda: bool(notices(bench, search_id)), dispatcher.tick)
    assert notices(bench, search_id) == ["0 of 0 ended, 2 at once"]
    assert bench.runner.free() == Capacity(0, 0)


def test_a_search_whose_trial_can_never_fit_says_so(bench: Bench, search: Search) -> None:
    dispatcher = bench.dispatcher("whole")
    never = bench.submit_search(in_base(search, resources={"cpus": 1, "gpus": 1}))
    eventually(lambda: bench.job(never).reason is not None, dispatcher.tick)
    assert bench.job(never).reason == "needs 1 CPU and 1 GPU; the whole cluster has 2 CPU and 0 GPU"


@pytest.mark.parametrize("what", ["spec", "record"])
def test_searches_of_another_version_block_nobody(bench: Bench, search: Search, recipe: Recipe, what: str) -> None:
    search_id = bench.submit_search(search)
    with bench.database.writing() as session:
        if what == "spec":
            session.execute(update(tables.Search).values(spec={**search.model_dump(mode="json"), "of_tomorrow": 1}))
        else:
            session.add(
                tables.Trial(search_id=search_id, number=1, status="waiting", point={}, reports=[{"of_tomorrow": 1}])
            )
    dispatcher = bench.dispatcher("whole")
    bench.until(bench.submit(recipe), "succeeded", dispatcher)
    eventually(lambda: "another version" in (bench.job(search_id).reason or ""), dispatcher.tick)
    job = bench.job(search_id)
    assert (job.status, job.attempts, job.lease_token) == ("queued", 0, None)


def test_a_kind_that_nobody_knows_blocks_nobody(bench: Bench, recipe: Recipe) -> None:
    strange = bench.submit(recipe)
    with bench.database.writing() as session:
        session.execute(update(Job).values(kind="of_tomorrow"))
    dispatcher = bench.dispatcher("whole")
    bench.until(bench.submit(recipe), "succeeded", dispatcher)
    assert "another version" in (bench.job(strange).reason or "")


def test_room_is_used_up_in_order() -> None:
    def wants(slots: int, cpus: int = 1) -> Job:
        recipe = {"model": {"source": "a/b"}, "method": {"kind": "dress", "ratio": 0.5}, "resources": {"cpus": cpus}}
        return Job(kind="job", slots=slots, recipe=recipe)

    total = Capacity(8, 0)
    room = Room(total, total, [(Resources(cpus=1), 100)])
    assert room.is_full, "a search that was promised more than there is holds all"
    room = Room(total, Capacity(5, 0), [(Resources(cpus=2), 2)])
    assert room.place(wants(3), None).slots == 3
    assert room.place(wants(1, cpus=2), None).slots == 0
    assert room.is_full
    assert Room(total, total, []).place(wants(20, cpus=3), None).slots == 2
