"""Garbage goes, and nothing that a job has, or is about to have, whatever comes between."""

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from service import collection, upkeep
from service.collection import Collected, Terms
from service.database.session import Database
from service.database.tables import Artifact, Attempt, Condemned, Duty
from service.errors import Conflict
from service.settings import Settings
from tests.service.bench import Bench
from tests.service.deadlines import eventually
from tests.service.test_queue import apply, enqueue, lease
from workers.contracts.events import ArtifactStored, NumberedEvent, StageStarted, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results, StageResult, StoredFile
from workers.contracts.search import Search
from workers.contracts.trials import TrialFinished, TrialProposed
from workers.local_store import LocalStore

HOUR = 3600.0
TERMS = Terms(grace_seconds=24 * HOUR, result_seconds=30 * 24 * HOUR)
KEY = "d" * 64


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def put(store: LocalStore, content: str) -> StoredFile:
    draft = store.root.parent / "draft"
    draft.write_text(content, "utf-8")
    return store.put(draft, "model/file.txt")


def publish(store: LocalStore, *files: StoredFile, key: str = KEY) -> None:
    store.publish(StageResult(stage="prune", key=key, files=list(files), seconds=1.0))


def pass_time(database: Database, store: LocalStore, seconds: float) -> None:
    """As far as files and marks can tell."""
    then = time.time() - seconds
    for place in [*store.root.glob("blobs/??/*"), *store.root.glob("stages/*.json")]:
        os.utime(place, (then, min(then, place.stat().st_mtime - seconds)))
    with database.writing() as session:
        session.execute(update(Condemned).values(condemned_at=Condemned.condemned_at - seconds))
        session.execute(update(Condemned).values(removed_at=Condemned.removed_at - seconds))
        session.execute(update(Attempt).values(started_at=Attempt.started_at - seconds))


def collect(database: Database, store: LocalStore, *, dry_run: bool = False) -> Collected:
    return collection.collect(database, store, TERMS, dry_run=dry_run)


def committed(database: Database, recipe: Recipe, *files: StoredFile) -> str:
    job_id = enqueue(database, recipe)
    apply(database, lease(database, job_id), ArtifactStored(files=list(files)), Succeeded(results=Results()))
    return job_id


def test_what_nobody_refers_to_goes_after_two_graces(database: Database, store: LocalStore) -> None:
    stray = put(store, "stray")
    assert collect(database, store).condemned == [], "it may be on its way into a job"
    pass_time(database, store, 25 * HOUR)
    told = collect(database, store)
    assert [kept.sha256 for kept in told.condemned] == [stray.sha256] and told.removed == []
    assert collect(database, store).waiting == 1 and store.holds(stray.sha256)
    pass_time(database, store, 25 * HOUR)
    (removed,) = collect(database, store).removed
    assert (removed.sha256, removed.size_bytes) == (stray.sha256, 5) and not store.holds(stray.sha256)
    pass_time(database, store, 25 * HOUR)
    collect(database, store)
    with database.reading() as session:
        assert session.scalars(select(Condemned)).all() == [], "nothing piles up"


def test_a_dry_run_says_what_a_run_does(database: Database, store: LocalStore, recipe: Recipe) -> None:
    strays = {put(store, name).sha256 for name in ("one", "two")}
    committed(database, recipe, put(store, "kept"))
    for done in ("condemned", "removed"):
        pass_time(database, store, 25 * HOUR)
        planned = getattr(collect(database, store, dry_run=True), done)
        assert {kept.sha256 for kept in planned} == strays
        assert all(store.holds(sha256) for sha256 in strays)
        assert {kept.sha256 for kept in getattr(collect(database, store), done)} == strays
    assert not any(store.holds(sha256) for sha256 in strays)


def test_files_of_jobs_stay_and_go_with_their_last_owner(database: Database, store: LocalStore, recipe: Recipe) -> None:
    shared = put(store, "shared")
    owners = [committed(database, recipe, shared) for _ in range(2)]
    for owner in owners:
        pass_time(database, store, 25 * HOUR)
        assert collect(database, store).condemned == []
        with database.writing() as session:
            session.execute(delete(Artifact).where(Artifact.job_id == owner))
    assert [kept.sha256 for kept in collect(database, store).condemned] == [shared.sha256]


def test_a_result_that_is_found_again_keeps_its_files(database: Database, store: LocalStore) -> None:
    file = put(store, "pruned")
    publish(store, file)
    pass_time(database, store, 29 * 24 * HOUR)
    assert collect(database, store).condemned == []
    pass_time(database, store, 2 * 24 * HOUR)
    assert len(collect(database, store).condemned) == 1
    assert store.find(KEY) is not None, "a lookup within the grace is a pardon"
    pass_time(database, store, 25 * HOUR)
    assert collect(database, store).removed == [] and store.holds(file.sha256)
    pass_time(database, store, 31 * 24 * HOUR)
    collect(database, store)
    pass_time(database, store, 25 * HOUR)
    told = collect(database, store)
    assert told.dropped_results == [KEY] and store.find(KEY) is None and not store.holds(file.sha256)


def test_a_running_job_keeps_what_it_has_come_by(database: Database, store: LocalStore, recipe: Recipe) -> None:
    publish(store, put(store, "pruned"))
    job_id = enqueue(database, recipe)
    held = lease(database, job_id)
    apply(database, held, StageStarted(stage="prune", key=KEY, index=0, count=1))
    pass_time(database, store, 365 * 24 * HOUR)
    assert collect(database, store).condemned == []
    apply(database, held, Succeeded(results=Results()), first=2)
    assert len(collect(database, store).condemned) == 1


def test_trials_keep_their_files_while_their_search_goes_on(
    database: Database, store: LocalStore, bench: Bench, search: Search
) -> None:
    search_id = bench.submit_search(search)
    file = put(store, "trial")
    held = lease(database, search_id)
    finished = TrialFinished(trial=1, status="stopped", files=[file])
    apply(database, held, TrialProposed(trial=1, point={}), finished)
    pass_time(database, store, 25 * HOUR)
    assert collect(database, store).condemned == []
    apply(database, held, Succeeded(results=Results()), first=3)
    assert len(collect(database, store).condemned) == 1


def test_bytes_put_again_are_pardoned(database: Database, store: LocalStore) -> None:
    stray = put(store, "stray")
    pass_time(database, store, 25 * HOUR)
    collect(database, store)
    pass_time(database, store, 25 * HOUR)
    put(store, "stray")
    assert collect(database, store).removed == [] and store.holds(stray.sha256)
    with database.reading() as session:
        assert session.scalars(select(Condemned)).all() == []


def test_a_commit_of_swept_files_is_refused(database: Database, store: LocalStore, recipe: Recipe) -> None:
    file = put(store, "model")
    committing = [NumberedEvent(sequence=1, event=ArtifactStored(files=[file]))]
    lease(database, enqueue(database, recipe))  # an attempt that may have found it keeps the memory of its removal
    pass_time(database, store, 25 * HOUR)
    collect(database, store)
    pass_time(database, store, 25 * HOUR)
    collect(database, store)
    pass_time(database, store, 48 * HOUR)
    collect(database, store)
    with database.writing() as session:
        assert collection.lost(session, store, committing) == [file.sha256]
    put(store, "model")
    with database.writing() as session:
        assert collection.lost(session, store, committing) == []


def test_an_attempt_whose_files_are_gone_makes_them_again(bench: Bench, recipe: Recipe) -> None:
    dispatcher = bench.dispatcher("whole")
    store = LocalStore(bench.settings.state_dir / "artifacts")
    file = put(store, "{}")  # what the pipeline will store
    with bench.database.writing() as session:
        session.add(Condemned(sha256=file.sha256, condemned_at=0.0, removed_at=1.0))
    told = bench.submit(recipe)
    held = store.holds
    seen: list[str] = []

    def lost_once(self: LocalStore, sha256: str) -> bool:
        seen.append(sha256)
        return len(seen) > 1 and held(sha256)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "holds", lost_once)
        job = bench.until(told, "succeeded", dispatcher)
    assert job.attempts == 2 and seen == [file.sha256] * 2
    requeued = next(event for event in bench.told(told) if event.type == "job_requeued")
    assert (requeued.body["code"], requeued.body["fault"]) == ("files_lost", "transient")


def test_a_crash_between_removal_and_its_note_is_made_good(
    database: Database, store: LocalStore, recipe: Recipe
) -> None:
    file = put(store, "stray")
    pass_time(database, store, 25 * HOUR)
    collect(database, store)
    lease(database, enqueue(database, recipe))
    store.path_of(file.sha256).unlink()
    collect(database, store)
    with database.writing() as session:
        assert session.get_one(Condemned, file.sha256).removed_at is not None
        event = ArtifactStored(files=[file])
        assert collection.lost(session, store, [NumberedEvent(sequence=1, event=event)]) == [file.sha256]


def test_one_at_a_time(database: Database) -> None:
    with upkeep.alone(database) as may_go_on:
        assert may_go_on()
        with pytest.raises(Conflict, match="under way elsewhere"), upkeep.alone(database):
            raise AssertionError("two at once")
    with pytest.raises(Conflict), upkeep.alone(database, every_seconds=HOUR):
        raise AssertionError("it was done just now")
    with upkeep.alone(database) as may_go_on, database.writing() as session:
        session.execute(update(Duty).values(lease_expires_at=1.0))  # its holder was stopped for long
    with upkeep.alone(database):
        pass


def test_the_keeper_does_both(database: Database, store: LocalStore, settings: Settings, recipe: Recipe) -> None:
    job_id = committed(database, recipe, put(store, "old"))
    pass_time(database, store, 25 * HOUR)
    keeper = upkeep.Keeper(database, store, settings.model_copy(update={"retention_artifact_days": 0.0}))
    keeper.begin_if_due()
    keeper.begin_if_due()

    def marked() -> bool:
        with database.reading() as session:
            return session.scalar(select(Condemned.sha256)) is not None

    eventually(marked, lambda: keeper.wait(0.05))
    keeper.stop(30.0)
    with database.reading() as session:
        assert session.scalar(select(Artifact.path).where(Artifact.job_id == job_id)) is None
