"""Trying again what has ended: the same job, a new count of attempts, and a search that goes on where it was."""

from typing import Any

import pytest
from sqlalchemy import update

from service import backlog, jobs, queue, searches
from service.database.session import Database
from service.database.tables import Dataset, Job, JobDataset
from service.errors import Conflict, NotFound
from tests.service.bench import Bench
from tests.service.test_queue import RULES, apply, enqueue, history, lease, read
from tests.service.torchfree_engines import finished
from workers.contracts.events import Failed, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.contracts.search import Search
from workers.contracts.trials import TrialFinished, TrialProgressed, TrialProposed

PASSING = Failed(fault="transient", code="transient", message="away")
WRONG = Failed(fault="recipe", code="invalid_recipe", message="no")


def retry(database: Database, job_id: str) -> Job:
    with database.writing() as session:
        return queue.retry(session, job_id)


def tries(database: Database, job_id: str) -> int:
    with database.reading() as session:
        return backlog.tries(session, session.get_one(Job, job_id))


def test_a_failed_job_goes_on_under_its_id(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    apply(database, lease(database, job_id), WRONG)
    before = read(database, job_id)
    assert before.status == "failed" and before.finished_at is not None
    job = retry(database, job_id)
    assert (job.status, job.error_code, job.error_message, job.finished_at) == ("queued", None, None, None)
    assert (job.created_at, job.attempts) == (before.created_at, 1), "its old place"
    assert lease(database, job_id).number == 2
    told = history(database, job_id)
    assert [event.number for event in told] == list(range(1, len(told) + 1))
    assert [event.type for event in told][-3:] == ["job_failed", "job_retried", "attempt_started"]


def test_the_attempts_before_count_no_more(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    for _ in range(RULES.max_attempts):
        apply(database, lease(database, job_id), PASSING)
    assert read(database, job_id).status == "failed"
    retry(database, job_id)
    held = lease(database, job_id)
    assert tries(database, job_id) == 1
    apply(database, held, PASSING)
    assert read(database, job_id).status == "queued", "it has all its tries again"


def test_a_cancelled_job_may_be_tried_again(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    with database.writing() as session:
        jobs.cancel(session, job_id)
    assert retry(database, job_id).status == "queued"
    apply(database, lease(database, job_id), Succeeded(results=Results()))
    assert read(database, job_id).status == "succeeded"


def test_a_wait_between_attempts_is_cut_short(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    slow = RULES.__class__(max_attempts=3, first_wait_seconds=3600.0, longest_wait_seconds=3600.0)
    with database.writing() as session:
        held = queue.lease(session, job_id, owner="one", seconds=15)
        assert held is not None
        queue.lose(session, held, slow, message="gone")
        assert queue.lease(session, job_id, owner="one", seconds=15) is None
    assert retry(database, job_id).reason is None
    assert lease(database, job_id).number == 2


def test_asking_twice_changes_nothing_more(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    apply(database, lease(database, job_id), WRONG)
    versions = {retry(database, job_id).version for _ in range(3)}
    lease(database, job_id)
    assert retry(database, job_id).status == "running"
    assert len(versions) == 1 and [event.type for event in history(database, job_id)].count("job_retried") == 1


@pytest.mark.parametrize(
    ("then", "told"),
    [
        (["succeed"], "submit its recipe again"),
        (["pause"], "resume it instead"),
        (["lease", "pause"], "is pausing; resume it instead"),
        (["lease", "cancel"], "once it is cancelled"),
    ],
)
def test_what_cannot_be_retried_says_what_to_do(database: Database, recipe: Recipe, then: list[str], told: str) -> None:
    job_id = enqueue(database, recipe)
    for step in then:
        if step == "succeed":
            apply(database, lease(database, job_id), Succeeded(results=Results()))
        elif step == "lease":
            lease(database, job_id)
        else:
            with database.writing() as session:
                getattr(jobs, step)(session, job_id)
    with pytest.raises(Conflict, match=told):
        retry(database, job_id)


def test_a_job_that_never_was(database: Database) -> None:
    with pytest.raises(NotFound), database.writing() as session:
        jobs.retry(session, "job_none")


def test_a_data_set_that_is_gone_is_named(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    with database.writing() as session:
        session.add(Dataset(id="dataset_1", name="a", sha256="a" * 64, size_bytes=1))
        session.flush()
        session.add(JobDataset(job_id=job_id, dataset_id="dataset_1"))
    apply(database, lease(database, job_id), WRONG)
    with database.writing() as session:
        session.get_one(Dataset, "dataset_1").deleted_at = 1.0
    with pytest.raises(Conflict, match="dataset_1 of job_.* was deleted"), database.writing() as session:
        jobs.retry(session, job_id)
    assert read(database, job_id).status == "failed"


def failed_trial(number: int) -> TrialFinished:
    return TrialFinished(trial=number, status="failed", seconds=2.0, code="worker_lost", message="gone")


def trials_of(database: Database, search_id: str) -> list[tuple[str, Any, bool]]:
    with database.reading() as session:
        rows, _ = searches.trials(session, search_id, limit=10)
        return [(row.status, row.ended_as, row.finished is None) for row in rows]


def submitted(database: Database, search: Search) -> str:
    recipe = search.recipe_at(next(search.probes())[1])
    with database.writing() as session:
        return searches.submit(session, search=search, recipe=recipe, metadata={}, labels={}, priority=0).id


def begun(database: Database, search: Search) -> tuple[str, Any]:
    """Trial 1 failed, trial 2 succeeded, trial 3 is under way."""
    search_id = submitted(database, search)
    held = lease(database, search_id)
    proposed = [TrialProposed(trial=number, point={"method.strength": 0.01}) for number in (1, 2, 3)]
    under_way = TrialProgressed(trial=3, stage="recover", fraction=0.5, seconds=4.0)
    apply(database, held, *proposed, failed_trial(1), finished(2, 5), under_way)
    return search_id, held


def test_a_stopped_search_goes_on_with_what_it_gave_up(database: Database, search: Search) -> None:
    search_id, held = begun(database, search)
    with database.writing() as session:
        searches.stop(session, search_id)
        queue.finish_stopping(session, held)
    assert trials_of(database, search_id)[2] == ("stopped", None, True)
    with database.writing() as session:
        searches.retry(session, search_id)
    assert trials_of(database, search_id) == [("failed", 1, False), ("succeeded", 2, False), ("waiting", None, True)]
    assert read(database, search_id).reason is None
    with database.reading() as session:
        told = searches.record(session, search_id).trials
    assert [each.finished is None for each in told] == [False, False, True] and told[2].seconds == 4.0


def test_a_failed_search_tries_its_failures_again(database: Database, search: Search) -> None:
    search_id, held = begun(database, search)
    apply(database, held, Failed(fault="recipe", code="too_many_failed", message="1 of 2"), first=7)
    with database.writing() as session:
        searches.retry(session, search_id)
    assert trials_of(database, search_id) == [("waiting", None, True), ("succeeded", 1, False), ("waiting", None, True)]
    again = lease(database, search_id)
    apply(database, again, finished(1, 4), finished(3, 6))
    assert [place for _, place, _ in trials_of(database, search_id)] == [2, 1, 3]
    with database.reading() as session:
        assert searches.get(session, search_id)[1].best == 1


def test_what_retention_took_of_a_search_stays_told(database: Database, search: Search) -> None:
    """Its trials that have ended tell no files again, unlike a job's stages."""
    search_id, held = begun(database, search)
    with database.writing() as session:
        searches.stop(session, search_id)
        queue.finish_stopping(session, held)
        session.execute(update(Job).values(artifacts_removed_at=7.0))
        searches.retry(session, search_id)
    assert read(database, search_id).artifacts_removed_at == 7.0


def test_a_retry_succeeds_once_the_fault_is_away(bench: Bench, recipe: Recipe) -> None:
    job_id = bench.submit(recipe)
    bench.until(job_id, "failed", bench.dispatcher("out_of_memory"))
    assert retry(bench.database, job_id).status == "queued"
    assert bench.until(job_id, "succeeded", bench.dispatcher("whole")).attempts == 2
