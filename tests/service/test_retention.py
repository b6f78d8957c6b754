"""What the retention policy removes: exactly what its dry run says, and nothing that anybody still needs."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import delete, func, select, update

from service import queue, retention, searches
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Artifact, Attempt, Event, Job, Trial
from service.retention import Policy
from service.settings import Settings
from tests.service.test_queue import apply, enqueue, history, lease, read
from workers.contracts.events import ArtifactStored, Failed, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results, StoredFile
from workers.contracts.search import Search
from workers.contracts.trials import TrialProposed

DAY = 24 * 3600.0
FILE = StoredFile(path="model/config.json", sha256="c" * 64, size_bytes=2)
MONTH = Policy(artifact_days=30.0)


def ended(
    database: Database, recipe: Recipe, days: float = 40.0, *, files: bool = True, how: str = "succeeded", **labels: str
) -> str:
    """A job that came to its end so many days ago; where `how` is `queued`, `running` or `paused`, it did not."""
    with database.writing() as session:
        job_id = queue.enqueue(session, recipe=recipe, metadata={}, labels=labels, priority=0).id
        if how == "cancelled":
            queue.cancel(session, job_id)
        elif how == "paused":
            queue.pause(session, job_id)
    if how in ("succeeded", "failed", "running"):
        held = lease(database, job_id)
        stored = [ArtifactStored(files=[FILE])] if files else []
        last = {"succeeded": [Succeeded(results=Results())], "failed": [FAILED]}.get(how, [])
        apply(database, held, *stored, *last)
    age(database, job_id, days)
    return job_id


FAILED = Failed(fault="recipe", code="diverged", message="no number")


def age(database: Database, job_id: str, days: float) -> None:
    with database.writing() as session:
        was = (Job.id == job_id, Job.finished_at.is_not(None))
        session.execute(update(Job).where(*was).values(finished_at=database_now() - days * DAY))


def due(database: Database, policy: Policy = MONTH) -> dict[str, str]:
    with database.reading() as session:
        return {each.id: each.removes for each in retention.due(session, policy)}


def manifest(database: Database, job_id: str) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).where(Artifact.job_id == job_id)) or 0


def test_files_go_and_figures_stay(database: Database, recipe: Recipe) -> None:
    old, young = ended(database, recipe), ended(database, recipe, 20.0)
    (removed,) = retention.apply(database, MONTH)
    assert (removed.id, removed.removes, removed.files, removed.size_bytes) == (old, "files", 1, 2)
    assert (manifest(database, old), manifest(database, young)) == (0, 1)
    job = read(database, old)
    assert (job.status, job.results) == ("succeeded", {}) and job.artifacts_removed_at is not None
    assert history(database, old)[-1].type == "artifacts_removed"
    assert retention.apply(database, MONTH) == []


def test_everything_goes_in_the_end(database: Database, recipe: Recipe, search: Search) -> None:
    old = ended(database, recipe, 400.0, team="a", files=False)
    with database.writing() as session:
        told: dict[str, Any] = {"recipe": recipe, "metadata": {}, "labels": {}, "priority": 0}
        search_id = searches.submit(session, search=search, **told).id
    apply(database, lease(database, search_id), TrialProposed(trial=1, point={}), FAILED)
    age(database, search_id, 400.0)
    policy = Policy(artifact_days=30.0, row_days=365.0)
    assert due(database, policy) == {old: "everything", search_id: "everything"}
    retention.apply(database, policy)
    with database.reading() as session:
        for table in (Job, Attempt, Event, Trial):
            assert session.scalar(select(func.count()).select_from(table)) == 0


def test_without_a_policy_all_is_kept(database: Database, recipe: Recipe) -> None:
    ended(database, recipe, 4000.0)
    assert due(database, Policy()) == {}


@pytest.mark.parametrize("how", ["queued", "running", "paused"])
def test_what_has_not_ended_is_never_touched(database: Database, recipe: Recipe, how: str) -> None:
    ended(database, recipe, 40.0, how=how)
    assert due(database, Policy(artifact_days=0.0, row_days=0.0)) == {}


def test_a_label_pins(database: Database, recipe: Recipe) -> None:
    ended(database, recipe, keep="true")
    other = ended(database, recipe, keep="false")
    assert due(database) == {other: "files"}


def test_the_newest_of_each_team_stay(database: Database, recipe: Recipe) -> None:
    ids = {
        (team, days): ended(database, recipe, days, **({"team": team} if team else {}))
        for team in ("a", "b", "")
        for days in (40.0, 50.0, 60.0)
    }
    assert due(database, Policy(artifact_days=30.0, keep_last=2)) == {
        ids[team, 60.0]: "files" for team in ("a", "b", "")
    }


def test_a_download_holds_what_it_reads(database: Database, recipe: Recipe) -> None:
    job_id = ended(database, recipe)
    retention.hold(database, Policy(artifact_days=0.0), job_id)
    until = read(database, job_id).held_until
    assert due(database) == {}
    retention.hold(database, Policy(artifact_days=0.0), job_id)
    assert read(database, job_id).held_until == until, "not written anew for each file"
    with database.writing() as session:
        session.execute(update(Job).values(held_until=database_now() - 1))
    assert due(database) == {job_id: "files"}


def test_what_a_search_or_a_study_needs_stays(database: Database, recipe: Recipe, search: Search) -> None:
    with database.writing() as session:
        told: dict[str, Any] = {"recipe": recipe, "metadata": {}, "labels": {}, "priority": 0}
        search_id = searches.submit(session, search=search, **told).id
    promoted = ended(database, recipe, search=search_id, trial="1")
    assert due(database) == {}, "the search goes on"
    apply(database, lease(database, search_id), ArtifactStored(files=[FILE]), Succeeded(results=Results()))
    age(database, search_id, 40.0)
    assert due(database) == {promoted: "files", search_id: "files"}
    again = ended(database, recipe, how="queued", search=search_id, trial="2")
    assert due(database) == {promoted: "files"}, "a trial of it is being made a job"
    with database.writing() as session:
        queue.cancel(session, again)
    row = ended(database, recipe, study="table")
    other = ended(database, recipe, how="running", study="table")
    assert row not in due(database), "the table is not complete"
    with database.writing() as session:
        session.execute(delete(Job).where(Job.id == other))
    assert due(database)[row] == "files"


def test_a_retry_between_dry_run_and_run_is_respected(
    database: Database, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = ended(database, recipe, how="failed")
    looked = retention.due

    def then_retry(*arguments: Any) -> list[retention.Due]:
        found = looked(*arguments)
        monkeypatch.undo()
        with database.writing() as session:
            queue.retry(session, failed)
        return found

    monkeypatch.setattr(retention, "due", then_retry)
    assert retention.apply(database, MONTH) == [] and manifest(database, failed) == 1


def test_it_stops_when_told(database: Database, recipe: Recipe) -> None:
    for _ in range(3):
        ended(database, recipe)
    asked = iter([True, False])
    assert len(retention.apply(database, MONTH, lambda: next(asked))) == 1
    assert len(due(database)) == 2


HOWS = st.sampled_from(["succeeded", "failed", "cancelled", "queued", "running", "paused"])
LABELS = st.fixed_dictionaries(
    {}, optional={"keep": st.just("true"), "team": st.sampled_from("ab"), "study": st.sampled_from("xy")}
)
JOBS = st.lists(st.tuples(HOWS, st.sampled_from([10.0, 40.0, 400.0]), st.booleans(), LABELS), max_size=8)
POLICIES = st.builds(
    Policy,
    artifact_days=st.sampled_from([None, 0.0, 30.0]),
    row_days=st.sampled_from([None, 365.0]),
    keep_last=st.integers(0, 2),
)


@given(wanted=JOBS, policy=POLICIES)
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_removes_what_its_dry_run_said(
    database: Database, recipe: Recipe, wanted: list[tuple[str, float, bool, dict[str, str]]], policy: Policy
) -> None:
    with database.writing() as session:
        session.execute(delete(Job))
    jobs = {ended(database, recipe, days, how=how, files=files, **labels): (how, days, files, labels)
            for how, days, files, labels in wanted}  # fmt: skip
    planned = due(database, policy)
    assert planned == _expected(jobs, policy, lambda job_id: read(database, job_id))
    removed = {each.id: each.removes for each in retention.apply(database, policy)}
    assert removed == planned and due(database, policy) == {}
    with database.reading() as session:
        assert set(session.scalars(select(Job.id))) == set(jobs) - {
            job_id for job_id, removes in planned.items() if removes == "everything"
        }
        kept = {
            job_id for job_id, (how, _, files, _) in jobs.items() if files and how in ("succeeded", "failed", "running")
        }
        assert set(session.scalars(select(Artifact.job_id))) == kept - set(planned)


def _expected(jobs: dict[str, Any], policy: Policy, row: Callable[[str], Job]) -> dict[str, str]:
    """The policy once more, in plain words."""
    final = {job_id: told for job_id, told in jobs.items() if told[0] in ("succeeded", "failed", "cancelled")}
    open_studies = {told[3].get("study") for job_id, told in jobs.items() if job_id not in final} - {None}
    newest: set[str] = set()
    for team in ("a", "b", None):
        of_team = [job_id for job_id, told in final.items() if told[3].get("team") == team]
        newest |= set(sorted(of_team, key=lambda each: (row(each).finished_at, each))[::-1][: policy.keep_last])
    expected = {}
    for job_id, (how, days, files, labels) in final.items():
        if job_id in newest or labels.get("keep") == "true" or labels.get("study") in open_studies:
            continue
        if policy.row_days is not None and days >= policy.row_days:
            expected[job_id] = "everything"
        elif policy.artifact_days is not None and days >= policy.artifact_days and files and how != "cancelled":
            expected[job_id] = "files"
    return expected


def test_rows_do_not_go_before_their_files(settings: Settings) -> None:
    for artifact_days in (30.0, None):
        with pytest.raises(ValidationError, match="set retention_artifact_days too, to no more days"):
            Settings(state_dir=settings.state_dir, retention_artifact_days=artifact_days, retention_row_days=7.0)
    assert Settings(state_dir=settings.state_dir, retention_artifact_days=7.0, retention_row_days=7.0)


def test_a_url_is_good_for_no_longer_than_its_bytes_are_kept(settings: Settings) -> None:
    week_seconds = 7 * 24 * 3600.0
    with pytest.raises(ValidationError, match="garbage_grace_hours: set it to no less"):
        Settings(state_dir=settings.state_dir, signed_url_seconds=week_seconds)
    assert Settings(state_dir=settings.state_dir, signed_url_seconds=week_seconds, garbage_grace_hours=168.0)


def test_a_policy_that_keeps_everything_writes_nothing_for_a_download(database: Database, recipe: Recipe) -> None:
    job_id = enqueue(database, recipe)
    retention.hold(database, Policy(), job_id)
    assert read(database, job_id).held_until is None
    retention.hold(database, Policy(artifact_days=1.0), job_id)
    assert read(database, job_id).held_until is not None
