"""What is read of the queue: page by page, whatever version wrote it, and how often a job was tried in vain."""

from typing import Any

import pytest

from service import backlog, queue
from service.database.session import Database
from tests.service.test_queue import KEY, RULES, apply, enqueue, lease, progress, read
from workers.contracts.events import CheckpointSaved, Event, StageFinished
from workers.contracts.recipe import Recipe


def lose_one(database: Database, job_id: str, *reported: Event) -> str:
    """One attempt that reports this and is lost; the job's status then."""
    held = lease(database, job_id)
    apply(database, held, *reported)
    with database.writing() as session:
        queue.lose(session, held, RULES, message="the worker is gone")
    return read(database, job_id).status


def test_progress_begins_a_new_count_of_attempts(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    for step in range(1, 6):
        assert lose_one(database, job_id, progress(step), CheckpointSaved(stage="regularize", step=step)) == "queued"
    assert lose_one(database, job_id, StageFinished(stage="regularize", key=KEY, seconds=1, reused=False)) == "queued"
    assert lose_one(database, job_id, progress(1)) == "queued"
    assert lose_one(database, job_id, progress(1)) == "failed"
    assert read(database, job_id).attempts == 8


def test_the_same_progress_again_counts_as_none(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    again = (
        StageFinished(stage="regularize", key=KEY, seconds=1, reused=True),
        CheckpointSaved(stage="recover", step=3),
    )
    assert [lose_one(database, job_id, *again) for _ in range(3)] == ["queued", "queued", "failed"]


def test_the_queue_is_read_page_by_page(database: Database, recipe: Recipe) -> None:
    for priority in (0, 5, 0, -1, 5, 0, 0):
        enqueue(database, recipe, priority)
    with database.reading() as session:
        whole = [job.id for job in backlog.waiting(session, 10)]
        paged: list[str] = []
        page = backlog.waiting(session, 2)
        while page:
            paged += [job.id for job in page]
            page = backlog.waiting(session, 2, after=page[-1])
    assert paged == whole and len(whole) == 7


@pytest.mark.parametrize("recipe", [{}, {"resources": None}, {"resources": {"cpus": "all", "of_tomorrow": 1}}])
def test_resources_of_another_version_are_read_as_far_as_they_go(recipe: dict[str, Any]) -> None:
    assert (backlog.resources(recipe).cpus, backlog.resources(recipe).gpus) == (1, 0)
