"""A stage that takes too long is stopped by the database's clock, goes on once, and says what to do."""

from typing import Any

import pytest
from sqlalchemy import update

from service import backlog, queue, searches
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Job
from service.domain.lease import Ending, Lease, RetryRules
from service.errors import LeaseLost
from tests.service.bench import Bench
from tests.service.deadlines import eventually
from tests.service.test_queue import KEY, RULES, apply, enqueue, history, read
from workers.contracts.events import CheckpointSaved, Failed, StageStarted, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.contracts.search import Search
from workers.contracts.trials import TrialProposed

HOUR = 3600.0
STARTED = StageStarted(stage="regularize", key=KEY, index=0, count=1)


def begin(database: Database, job_id: str, stage_seconds: float | None = HOUR) -> Lease:
    with database.writing() as session:
        held = queue.lease(session, job_id, owner="one", seconds=15, stage_seconds=stage_seconds)
    assert held is not None
    return held


def pass_deadline(database: Database, job_id: str) -> None:
    with database.writing() as session:
        late = (Job.id == job_id, Job.stage_deadline_at.is_not(None))
        session.execute(update(Job).where(*late).values(stage_deadline_at=database_now() - 1))


def overdue(database: Database) -> list[str]:
    with database.reading() as session:
        return backlog.overdue(session, "one")


def overrun(database: Database, held: Lease, rules: RetryRules = RULES) -> bool:
    with database.writing() as session:
        return queue.overrun(session, held, rules)


def test_an_attempt_within_its_deadline_is_let_be(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = begin(database, job_id)
    assert overdue(database) == [] and not overrun(database, held)
    assert read(database, job_id).status == "running"


def test_each_stage_has_a_deadline_of_its_own(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = begin(database, job_id)
    pass_deadline(database, job_id)
    assert overdue(database) == [job_id]
    apply(database, held, STARTED)
    assert overdue(database) == [] and not overrun(database, held), "looked at again under the lease"


def test_without_a_deadline_nothing_is_late(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = begin(database, job_id, None)
    apply(database, held, STARTED)
    pass_deadline(database, job_id)
    assert overdue(database) == [] and not overrun(database, held)


def test_it_goes_on_once_and_then_fails(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    for number in (1, 2):
        held = begin(database, job_id)
        # Getting further does not make a slow stage endless.
        apply(database, held, STARTED, CheckpointSaved(stage="regularize", step=number))
        pass_deadline(database, job_id)
        assert overrun(database, held, RetryRules(max_attempts=9, first_wait_seconds=0.0))
    job = read(database, job_id)
    assert (job.status, job.error_fault, job.error_code) == ("failed", "deadline", "stage_deadline")
    told = job.error_message or ""
    assert "the regularize stage had not ended 1 h after it began" in told
    assert "resources.stage_deadline_hours" in told and (job.stage_deadline_at, job.lease_token) == (None, None)
    requeued = [event.body for event in history(database, job_id) if event.type == "job_requeued"]
    assert [(body["fault"], body["outcome"]) for body in requeued] == [("deadline", "failed")]
    with database.writing() as session:
        queue.retry(session, job_id)
    held = begin(database, job_id)
    pass_deadline(database, job_id)
    overrun(database, held)
    assert read(database, job_id).status == "queued", "asked for again, it has both its tries again"


def test_other_faults_do_not_use_up_its_second_try(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    with database.writing() as session:
        held = queue.lease(session, job_id, owner="one", seconds=15, stage_seconds=HOUR)
        assert held is not None
        queue.lose(session, held, RULES, message="gone")
    held = begin(database, job_id)
    pass_deadline(database, job_id)
    overrun(database, held)
    assert read(database, job_id).status == "queued"


def test_a_zombie_ends_nothing(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = begin(database, job_id)
    pass_deadline(database, job_id)
    with database.writing() as session:
        session.execute(update(Job).values(lease_expires_at=0.0))
    with pytest.raises(LeaseLost):
        overrun(database, held)


def test_a_pause_goes_before_a_deadline(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = begin(database, job_id)
    with database.writing() as session:
        queue.pause(session, job_id)
    pass_deadline(database, job_id)
    assert overdue(database) == []
    overrun(database, held)
    assert read(database, job_id).status == "paused"


def test_news_of_any_trial_prolong_a_search(database: Database, search: Search) -> None:
    bench_recipe = search.recipe_at(next(search.probes())[1])
    with database.writing() as session:
        told: dict[str, Any] = {"recipe": bench_recipe, "metadata": {}, "labels": {}, "priority": 0}
        search_id = searches.submit(session, search=search, **told).id
    held = begin(database, search_id)
    pass_deadline(database, search_id)
    apply(database, held, TrialProposed(trial=1, point={"method.strength": 0.01}))
    assert overdue(database) == []
    pass_deadline(database, search_id)
    overrun(database, held)
    assert "no trial had told anything 1 h since the last news" in (read(database, search_id).reason or "")


def test_the_dispatcher_ends_what_is_late_and_frees_its_room(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    job_id = bench.submit(recipe, cpus=2)
    eventually(lambda: "checkpoint_saved" in bench.types(job_id), dispatcher.tick)
    pass_deadline(bench.database, job_id)
    eventually(lambda: "job_requeued" in bench.types(job_id), dispatcher.tick)
    eventually(lambda: "checkpoint_loaded" in bench.types(job_id), dispatcher.tick)
    pass_deadline(bench.database, job_id)
    job = bench.until(job_id, "failed", dispatcher)
    assert (job.attempts, job.error_fault) == (2, "deadline") and bench.runner.attempts() == set()
    other = bench.submit(recipe, cpus=2)
    bench.until(other, "running", dispatcher)


def test_a_recipe_says_how_long_its_stages_may_take(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("gated")
    usual, own = bench.submit(recipe), bench.submit(recipe, stage_deadline_hours=2)
    for job_id, hours in ((usual, bench.settings.stage_deadline_hours), (own, 2)):
        assert hours is not None
        assert bench.until(job_id, "running", dispatcher).stage_deadline_seconds == hours * HOUR


def test_a_node_out_of_memory_names_what_helps(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    held = begin(database, job_id)
    apply(database, held, STARTED)
    with database.writing() as session:
        queue.give_up(session, held, RULES, Ending("out_of_memory", "out_of_memory", "its worker was killed"))
    job = read(database, job_id)
    assert (job.status, job.attempts, job.error_fault) == ("failed", 1, "out_of_memory")
    for field in ("activation_checkpointing: true", "loss_chunk_tokens", "optimizer: adamw_8bit"):
        assert f"method.training.{field}" in (job.error_message or "")


def test_whose_fault_it_was_is_kept(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    apply(database, begin(database, job_id), Failed(fault="recipe", code="diverged", message="no number"))
    assert read(database, job_id).error_fault == "recipe"
    with database.writing() as session:
        queue.retry(session, job_id)
    apply(database, begin(database, job_id), Succeeded(results=Results()))
    assert read(database, job_id).error_fault is None
