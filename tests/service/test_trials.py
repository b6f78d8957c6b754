"""A search's trials: folded from what attempts report, each fact once, ranked, and their files kept as was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import update

from service import queue, searches
from service.artifacts import catalog
from service.database import tables
from service.database.session import Database
from service.database.tables import Trial
from tests.service.test_queue import RULES, apply, history, lease, read
from tests.service.torchfree_engines import finished
from workers.contracts.events import Event, Failed, StageFinished, Succeeded
from workers.contracts.results import Measurement, Results, StoredFile
from workers.contracts.search import Search
from workers.contracts.tasks import TaskFigure
from workers.contracts.trials import SearchRecord, TrialFinished, TrialProgressed, TrialProposed, TrialReported
from workers.searching import ranking
from workers.searching.record import recorded


def submit(database: Database, search: Search, **changes: Any) -> str:
    wanted = Search.model_validate(search.model_dump(mode="json") | changes)
    recipe = wanted.recipe_at(next(wanted.probes())[1])
    with database.writing() as session:
        return searches.submit(session, search=wanted, recipe=recipe, metadata={}, labels={}, priority=0).id


def proposed(number: int, strength: float = 0.01) -> TrialProposed:
    return TrialProposed(trial=number, point={"method.strength": strength})


def progressed(number: int, seconds: float = 0.0) -> TrialProgressed:
    return TrialProgressed(trial=number, stage="regularize", fraction=0.5, seconds=seconds, gpu_seconds=seconds / 2)


def reported(number: int, rung: int, value: float | None = 1.0) -> TrialReported:
    return TrialReported(trial=number, rung=rung, value=value, decision="go_on")


def failed(number: int) -> TrialFinished:
    return TrialFinished(trial=number, status="failed", code="diverged", message="no number", seconds=1.0)


def rows(database: Database, search_id: str) -> list[Trial]:
    with database.reading() as session:
        return searches.trials(session, search_id, limit=10_000)[0]


def statuses(database: Database, search_id: str) -> list[str]:
    return [row.status for row in rows(database, search_id)]


def row_of(database: Database, search_id: str) -> tables.Search:
    with database.reading() as session:
        return searches.get(session, search_id)[1]


def record(database: Database, search_id: str) -> SearchRecord:
    with database.reading() as session:
        return searches.record(session, search_id)


def kept(database: Database, search_id: str) -> list[str]:
    with database.reading() as session:
        return [artifact.path for artifact in catalog.manifest(session, search_id)]


def attempt_again(database: Database, search_id: str) -> Any:
    """The attempt under way is lost, and another begins."""
    job = read(database, search_id)
    with database.writing() as session:
        session.execute(update(tables.Job).values(lease_expires_at=0.0))
        heir = queue.adopt(session, job.id, owner="two", seconds=15)
        assert heir is not None
        queue.lose(session, heir, RULES, message="gone")
    return lease(database, search_id)


def test_a_trial_is_told_from_proposal_to_end(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    held = lease(database, search_id)
    apply(database, held, proposed(1), progressed(1), reported(1, 1, None), reported(1, 0), progressed(1, 4.0))
    (row,) = rows(database, search_id)
    assert (row.status, row.point, row.finished, row.ended_as) == ("running", {"method.strength": 0.01}, None, None)
    assert row.progress is not None and row.progress["seconds"] == 4.0
    assert [(report["rung"], report["value"]) for report in row.reports] == [(0, 1.0), (1, None)]
    apply(database, held, finished(1, 7), first=6)
    (row,) = rows(database, search_id)
    assert (row.status, row.ended_as) == ("succeeded", 1) and (row.ended_at or 0) >= row.created_at
    assert row.finished is not None and row.finished["results"] == {"pruned": {"parameters": 7}}
    told = [event.type for event in history(database, search_id)]
    assert told[2:] == [
        "trial_proposed",
        "trial_progressed",
        "trial_reported",
        "trial_reported",
        "trial_progressed",
        "trial_finished",
    ]
    assert read(database, search_id).status == "running", "a search goes on"


def test_what_is_known_is_not_changed_by_telling_it_again(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    held = lease(database, search_id)
    apply(database, held, proposed(1), reported(1, 0, 3.0), proposed(2), finished(2, 5), failed(1))
    held = attempt_again(database, search_id)
    late = [proposed(1, 0.5), reported(1, 0, 9.0), reported(2, 0), progressed(2), finished(1, 1), failed(2)]
    apply(database, held, *late, progressed(7), reported(7, 0), finished(7, 1))
    first, second = rows(database, search_id)
    assert first.point == {"method.strength": 0.01} and [report["value"] for report in first.reports] == [3.0]
    assert (first.status, first.ended_as, second.status, second.ended_as) == ("failed", 2, "succeeded", 1)
    assert second.reports == [] and second.progress is None
    assert row_of(database, search_id).best == 2


def test_a_later_attempt_is_told_all_of_the_earlier_ones(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    held = lease(database, search_id)
    apply(database, held, *(proposed(n) for n in (1, 2, 3)), reported(3, 0, None), failed(3), finished(1, 6))
    apply(database, held, reported(2, 0), progressed(2, 8.0), first=7)
    held = attempt_again(database, search_id)
    assert statuses(database, search_id) == ["succeeded", "waiting", "failed"]
    told = record(database, search_id)
    assert [(trial.trial, trial.ended_as, trial.seconds, trial.gpu_seconds) for trial in told.trials] == [
        (1, 2, 0.0, 0.0),
        (2, None, 8.0, 4.0),
        (3, 1, 0.0, 0.0),
    ]
    assert told.trials[1].reports == [reported(2, 0)] and told.trials[2].reports == [reported(3, 0, None)]
    assert told.trials[0].finished == finished(1, 6) and told.trials[2].finished == failed(3)
    with database.reading() as session:
        (before, now) = session.query(tables.Attempt).order_by(tables.Attempt.number).all()
    assert told.wall_seconds == pytest.approx((before.ended_at or 0) - before.started_at) and now.ended_at is None
    assert SearchRecord.model_validate(told.model_dump(mode="json")) == told
    apply(database, held, progressed(2, 9.0))
    assert statuses(database, search_id)[1] == "running"


@pytest.mark.parametrize("verb", ["pause", "lose"])
def test_trials_wait_while_their_search_does_not_run(database: Database, search: Search, verb: str) -> None:
    search_id = submit(database, search)
    held = lease(database, search_id)
    apply(database, held, proposed(1), proposed(2), finished(1, 3))
    with database.writing() as session:
        if verb == "lose":
            queue.lose(session, held, RULES, message="gone")
        else:
            searches.pause(session, search_id)
            queue.finish_stopping(session, held)
    assert statuses(database, search_id) == ["succeeded", "waiting"]
    with database.writing() as session:
        searches.resume(session, search_id)
    held = lease(database, search_id)
    apply(database, held, proposed(2))
    assert statuses(database, search_id) == ["succeeded", "running"]


@pytest.mark.parametrize("last", [Succeeded(results=Results()), Failed(fault="recipe", code="x", message="y"), None])
def test_no_trial_outlives_its_search(database: Database, search: Search, last: Event | None) -> None:
    search_id = submit(database, search)
    held = lease(database, search_id)
    apply(database, held, proposed(1), proposed(2), finished(1, 3))
    if last is not None:
        apply(database, held, last, first=4)
    else:
        with database.writing() as session:
            searches.stop(session, search_id)
            queue.finish_stopping(session, held)
    first, second = rows(database, search_id)
    assert (first.status, second.status, second.finished) == ("succeeded", "stopped", None)
    assert second.ended_at is not None and second.ended_as is None
    job = read(database, search_id)
    assert job.reason == (None if last else "stopped after 1 of 3 trials, 1 more given up")
    assert row_of(database, search_id).best == 1


def test_a_search_that_waits_is_stopped_with_a_word(database: Database, search: Search) -> None:
    counted = submit(database, search, trials=1)
    with database.writing() as session:
        assert searches.stop(session, counted).reason == "stopped after 0 of 1 trial"
    timed = submit(database, search, trials=None, budget={"wall_hours": 1.0})
    held = lease(database, timed)
    apply(database, held, proposed(1), failed(1))
    with database.writing() as session:
        searches.pause(session, timed)
        queue.finish_stopping(session, held)
        assert searches.stop(session, timed).reason == "stopped after 1 trial"


@pytest.mark.parametrize(
    ("keep", "paths"),
    [
        ("best", ["trial-3/model/a"]),
        ("frontier", ["trial-2/model/a", "trial-3/model/a"]),
        ("all", ["trial-1/model/a", "trial-2/model/a", "trial-3/model/a", "trial-4/model/a"]),
        ("none", []),
    ],
)
def test_files_are_kept_as_was_asked(database: Database, search: Search, keep: str, paths: list[str]) -> None:
    search_id = submit(database, search, keep=keep, objective=["parameters min", "bytes min"])
    held = lease(database, search_id)
    values = {1: [5.0, 5.0], 2: [4.0, 2.0], 3: [2.0, 4.0], 4: [6.0, 6.0]}
    for number, pair in values.items():
        file = StoredFile(path="model/a", sha256=str(number) * 64, size_bytes=number)
        end = finished(number, 1, [file]).model_copy(update={"values": pair})
        apply(database, held, proposed(number), end, first=2 * number - 1)
    assert kept(database, search_id) == paths
    search_row = row_of(database, search_id)
    assert (search_row.best, search_row.frontier) == (3, [3, 2])
    with database.reading() as session:
        for path in paths:
            assert catalog.find(session, search_id, path).attempt_id == held.attempt_id


def test_taking_files_away_takes_no_other_trials(database: Database, search: Search) -> None:
    search_id = submit(database, search, keep="best", trials=20)
    held = lease(database, search_id)
    file = StoredFile(path="model/a", sha256="a" * 64, size_bytes=1)
    apply(database, held, proposed(1), proposed(12), finished(1, 5, [file]), finished(12, 4, [file]))
    assert kept(database, search_id) == ["trial-12/model/a"]


def test_what_breaks_a_constraint_or_was_not_measured_is_never_best(database: Database, search: Search) -> None:
    search_id = submit(database, search, constraints=["bytes <= 100"])
    held = lease(database, search_id)
    ends = [
        finished(1, 1).model_copy(update={"excesses": [0.5]}),
        finished(2, 2).model_copy(update={"excesses": [None]}),
        finished(3, 3).model_copy(update={"values": [None], "excesses": [0.0]}),
        finished(4, 4).model_copy(update={"values": [1.0, 2.0], "excesses": [0.0]}),  # another version's objectives
    ]
    apply(database, held, *(proposed(end.trial) for end in ends), *ends)
    assert (row_of(database, search_id).best, row_of(database, search_id).frontier) == (None, [])
    apply(database, held, proposed(5), finished(5, 9).model_copy(update={"excesses": [-1.0]}), first=9)
    assert (row_of(database, search_id).best, row_of(database, search_id).frontier) == (5, [5])


def test_figures_that_are_no_numbers_keep_nothing_from_going_on(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    held = lease(database, search_id)
    nan = float("nan")
    task = TaskFigure.model_construct(metric="acc", value=nan)
    odd = Results(pruned=Measurement(perplexity={"text": nan}, tasks={"piqa": task}))
    harmless = Results(pruned=Measurement(perplexity={"text": nan}, parameters=3))
    ends = [finished(1, 1).model_copy(update={"results": odd, "values": [nan], "excesses": [float("inf")]})]
    ends += [finished(2, 2).model_copy(update={"results": harmless})]
    progress = TrialProgressed(trial=1, stage="recover", fraction=0.1, metrics={"loss": None})
    apply(database, held, proposed(1), progress, proposed(2), *ends)
    first, second = record(database, search_id).trials
    assert first.finished is not None and first.finished.values == [None] and first.finished.results is None
    assert second.finished is not None and second.finished.results is not None
    assert second.finished.results.pruned == Measurement(perplexity={"text": None}, parameters=3)
    assert row_of(database, search_id).best == 2


def test_a_search_that_another_version_wrote_is_not_ranked(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    held = lease(database, search_id)
    with database.writing() as session:
        session.execute(update(tables.Search).values(spec={"of_tomorrow": 1}))
    apply(database, held, proposed(1), finished(1, 1))
    assert statuses(database, search_id) == ["succeeded"] and row_of(database, search_id).best is None
    with database.writing() as session:
        searches.stop(session, search_id)
        queue.finish_stopping(session, held)
    assert read(database, search_id).reason == "stopped after 1 trial"


def test_a_tally_counts_and_adds_up(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    with database.reading() as session:
        assert searches.tally(session, search_id) == searches.Tally()
    held = lease(database, search_id)
    apply(database, held, *(proposed(n) for n in (1, 2, 3, 4)), finished(1, 3), failed(2), progressed(3, 10.0))
    with database.reading() as session:
        tally = searches.tally(session, search_id)
    assert tally.counts == {"succeeded": 1, "failed": 1, "running": 2}
    assert (tally.spent_seconds, tally.avoided_seconds, tally.gpu_seconds) == (13.0, 3.0, 6.0)
    assert list(tally.avoided_by_stage.items()) == [("evaluate dense", 2.0), ("basis", 1.0)]


def test_a_trial_that_gets_further_begins_a_new_count_of_tries(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    further: list[list[Event]] = [
        [proposed(1), progressed(1)],
        [reported(1, 0)],
        [reported(1, 1)],
        [proposed(2), progressed(2)],
        [failed(1)],
    ]
    for events in further:
        held = lease(database, search_id)
        apply(database, held, *events)
        with database.writing() as session:
            queue.lose(session, held, RULES, message="gone")
        assert read(database, search_id).status == "queued"
    again: Sequence[Event] = [proposed(2), progressed(2), reported(1, 0), failed(1)]
    for status in ("queued", "failed"):
        held = lease(database, search_id)
        apply(database, held, *again)
        with database.writing() as session:
            queue.lose(session, held, RULES, message="gone")
        assert read(database, search_id).status == status


def test_trial_events_of_a_job_are_history_alone(database: Database, search: Search) -> None:
    with database.writing() as session:
        recipe = search.recipe_at(next(search.probes())[1])
        job_id = queue.enqueue(session, recipe=recipe, metadata={}, labels={}, priority=0).id
    apply(database, lease(database, job_id), proposed(1), finished(1, 1))
    with database.reading() as session:
        assert session.query(Trial).count() == 0
    assert [event.type for event in history(database, job_id)][-2:] == ["trial_proposed", "trial_finished"]


def test_stages_of_a_search_itself_do_no_harm(database: Database, search: Search) -> None:
    search_id = submit(database, search)
    stage = StageFinished(stage="basis", key="a" * 64, seconds=1, reused=False)
    apply(database, lease(database, search_id), stage)
    assert rows(database, search_id) == []


VALUES = st.one_of(st.none(), st.integers(0, 4))
ENDS = st.lists(st.tuples(VALUES, VALUES, st.booleans()), min_size=1, max_size=12)


@given(ends=ENDS, data=st.data())
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranking_bit_by_bit_is_ranking_at_once(
    database: Database, search: Search, ends: list[tuple[int | None, int | None, bool]], data: st.DataObject
) -> None:
    search_id = submit(database, search, objective=["parameters min", "bytes max"], constraints=["bytes <= 9e9"])
    held = lease(database, search_id)
    told = [
        finished(number, 1).model_copy(update={"values": [first, second], "excesses": [0.0 if kept else 1.0]})
        for number, (first, second, kept) in enumerate(ends, start=1)
    ]
    apply(database, held, *(proposed(end.trial) for end in told))
    order = data.draw(st.permutations(told))
    done = 0
    while done < len(order):
        size = data.draw(st.integers(1, 4))
        apply(database, held, *order[done : done + size], first=len(told) + done + 1)
        done += size
    wanted = Search.model_validate(row_of(database, search_id).spec)
    row = row_of(database, search_id)
    assert (row.best, row.frontier) == (ranking.best(wanted, told), ranking.frontier(wanted, told))
    assert sorted(trial.ended_as or 0 for trial in rows(database, search_id)) == list(range(1, len(told) + 1))


TOLD = st.one_of(
    st.builds(progressed, st.integers(1, 3), st.floats(0, 9)),
    st.builds(reported, st.integers(1, 3), st.integers(0, 2), st.floats(0, 9)),
    st.builds(finished, st.integers(1, 3), st.integers(0, 9)),
)


@given(events=st.lists(TOLD, max_size=15))
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rows_say_what_the_events_say(database: Database, search: Search, events: list[Event]) -> None:
    """Up to the first trial's end: from there on an engine tells no more of that trial, and rows heed nothing."""
    search_id = submit(database, search)
    every: list[Event] = [proposed(1), proposed(2), proposed(3)]
    ended: set[int] = set()
    for event in events:
        number = getattr(event, "trial", 0)
        if number not in ended:
            every.append(event)
        ended |= {number} if isinstance(event, TrialFinished) else set()
    apply(database, lease(database, search_id), *every)
    folded = {trial.trial: trial for trial in record(database, search_id).trials}
    for trial in recorded(SearchRecord(), every).trials:
        rungs = sorted(trial.reports, key=lambda report: report.rung)
        spent = {} if trial.finished is None else {"seconds": 0.0, "gpu_seconds": 0.0}
        assert folded[trial.trial] == trial.model_copy(update={"reports": rungs, **spent})
