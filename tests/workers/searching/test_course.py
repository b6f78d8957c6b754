"""The course of a search: the same trials, decisions and best whatever was killed on the way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.searching.searches import decisions, facts, run_through, search, told
from workers.contracts.events import Event, Failed, StageStarted, Succeeded
from workers.contracts.results import Measurement, Results
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord, TrialFinished, TrialProposed
from workers.searching.course import Course
from workers.searching.ranking import best, frontier

SEARCHES: dict[str, Search] = {
    "tpe": search(),
    "tpe, asha": search(scheduler={"kind": "asha", "reduction": 2, "first_fraction": 0.2}, trials=12),
    "random, median": search(algorithm="random", scheduler={"kind": "median", "least_trials": 2}, trials=10),
    "grid": search(
        algorithm="grid",
        space={"method.strength": {"choice": [1e-4, 1e-3, 1e-2]}, "method.ratio": {"choice": [0.2, 0.4]}},
        trials=None,
    ),
    "nsga2, frontier": search(
        algorithm="nsga2",
        space={"method.strength": "loguniform(1e-5, 1e-1)", "method.ratio": "uniform(0.1, 0.6)"},
        constraints=["parameters <= 0.8"],
        trials=12,
    ),
    "tpe, first and bounds": search(
        first=[{"method.strength": 0.05}, {"method.strength": 1e-3}], constraints=["perplexity.wikitext2 <= 20"]
    ),
}


def finished(record: SearchRecord) -> list[TrialFinished]:
    return [trial.finished for trial in record.trials if trial.finished]


@pytest.mark.parametrize("name", SEARCHES)
def test_an_undisturbed_search_ends_with_what_was_asked(name: str, tmp_path: Path) -> None:
    wanted = SEARCHES[name]
    record, events = run_through(wanted, tmp_path)
    assert isinstance(events[-1], Succeeded)
    assert len(record.trials) == wanted.trials_at_most
    assert [trial.trial for trial in record.trials] == list(range(1, wanted.trials_at_most + 1))
    ended = finished(record)
    assert len(ended) == len(record.trials)
    assert best(wanted, ended) in frontier(wanted, ended)
    if wanted.scheduler is not None:
        assert {each.status for each in ended} == {"succeeded", "stopped"}
    assert all(each.avoided_seconds == pytest.approx(3.0, abs=0.1) for each in ended)
    assert all(each.avoided_by_stage == {"evaluate dense": each.avoided_seconds} for each in ended)


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, 90), min_size=1, max_size=6))
def test_kills_change_nothing(name: str, kills: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """At concurrency 1: the same trials, decisions, order and best; and no finished trial is run again."""
    wanted = SEARCHES[name]
    undisturbed, _ = run_through(wanted, tmp_path_factory.mktemp("undisturbed"))
    record, events = run_through(wanted, tmp_path_factory.mktemp("killed"), kills)
    assert facts(record) == facts(undisturbed)
    assert best(wanted, finished(record)) == best(wanted, finished(undisturbed))
    assert max(Counter(decisions(events)).values()) == 1, "what is recorded is neither told nor decided again"


def test_a_sampler_learns(tmp_path: Path) -> None:
    """Later points of TPE lie nearer to the optimum at 1e-3 than those that chance draws."""

    def misses(algorithm: str) -> float:
        record, _ = run_through(search(algorithm=algorithm, trials=30, seed=3), tmp_path / algorithm)
        late = [each.values[0] for each in finished(record)[15:] if each.values and each.values[0]]
        return sum(late) / len(late)

    assert misses("tpe") < misses("random")


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    one, again, other = (
        [trial.point for trial in run_through(search(seed=seed), tmp_path / name)[0].trials]
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert one == again != other
    assert len({str(point) for point in one}) == len(one)


def test_failing_trials_are_rows_and_too_many_end_the_search(tmp_path: Path) -> None:
    some = search(algorithm="grid", space={"seed": {"choice": [1, 13, 2]}}, trials=None)
    record, events = run_through(some, tmp_path / "some")
    assert [each.status for each in finished(record)] == ["succeeded", "failed", "succeeded"]
    assert isinstance(events[-1], Succeeded)
    bad = search(algorithm="random", space={"seed": {"choice": [13, 13.0]}}, trials=20, most_failed=2)
    record, events = run_through(bad, tmp_path / "bad")
    last = events[-1]
    assert isinstance(last, Failed) and last.code == "too_many_failed"
    assert "2 of 2 trials failed" in last.message and len(record.trials) == 2


def test_a_point_that_makes_no_recipe_is_a_failed_trial(tmp_path: Path) -> None:
    """Values that exclude each other may stand in one space."""
    wanted = search(
        algorithm="grid",
        space={"method.solver": {"choice": ["penalty", "elastic"]}, "method.ratio": {"choice": [0.25, 0.3]}},
        trials=None,
    )
    record, _ = run_through(wanted, tmp_path)
    told_of = {str(trial.point): trial.finished for trial in record.trials}
    assert [each.status for each in finished(record)].count("failed") == 1
    (failed,) = (each for each in told_of.values() if each and each.status == "failed")
    assert failed.message and "elastic_ratios" in failed.message


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def course(wanted: Search, record: SearchRecord | None = None) -> tuple[Course, list[Event], Clock]:
    events: list[Event] = []
    clock = Clock()
    return Course(wanted, record or SearchRecord(), events.append, clock), events, clock


def test_a_trial_whose_stage_takes_too_long_fails(tmp_path: Path) -> None:
    wanted = search(trials=2)
    events: list[Event] = []
    clock = Clock()
    tried = Course(wanted, SearchRecord(), events.append, clock, stage_seconds=3600.0)
    trial = tried.next_trial()
    assert trial is not None
    for began, stage in ((0.0, "basis"), (3000.0, "regularize")):
        clock.now = began
        assert tried.heard(1, [StageStarted(stage=stage, key="a" * 64, index=0, count=2)]) == "go_on"
    clock.now = 6600.0
    assert tried.heard(1, []) == "go_on", "its second stage began later"
    clock.now = 6601.0
    assert tried.heard(1, []) == "stop"
    last = events[-1]
    assert isinstance(last, TrialFinished) and (last.status, last.code) == ("failed", "stage_deadline")
    assert "resources.stage_deadline_hours" in (last.message or "") and last.seconds == 6601.0
    assert tried.next_trial() is not None, "the search goes on"


def succeeded(perplexity: float = 7.0) -> Succeeded:
    recovered = Measurement(parameters=750, perplexity={"wikitext2": perplexity})
    return Succeeded(results=Results(dense=Measurement(parameters=1000), recovered=recovered))


@pytest.mark.parametrize(
    ("budget", "gpus", "passed"),
    [({"wall_hours": 1.0}, 0, 3590.0), ({"gpu_hours": 1.0}, 1, 1790.0)],
    ids=["wall", "gpu"],
)
def test_the_budget_ends_trials_under_way_and_begins_no_more(
    budget: dict[str, float], gpus: int, passed: float
) -> None:
    """Two trials on a GPU each use an hour of GPU in half an hour."""
    base: dict[str, Any] = {"model": {"source": "m"}, "method": {"ratio": 0.25}, "resources": {"gpus": gpus}}
    wanted = search(base=base, budget=budget, concurrency=2, trials=None)
    here, events, clock = course(wanted)
    one, two = here.next_trial(), here.next_trial()
    assert one and two and here.next_trial() is None and here.has_more
    clock.now = passed
    assert here.heard(one.number, []) == "go_on" and here.has_more
    clock.now += 10
    assert here.heard(one.number, []) == "stop" == here.heard(two.number, [])
    assert not here.has_more and here.next_trial() is None
    ended = [event for event in events if isinstance(event, TrialFinished)]
    assert [each.status for each in ended] == ["stopped", "stopped"]
    spent = sum(each.gpu_seconds for each in ended) if gpus else clock.now
    assert spent <= 3600.0
    assert ended[0].message == "the search's budget is used up"


def test_earlier_attempts_count_towards_the_budget() -> None:
    wanted = search(budget={"wall_hours": 1.0})
    here, _, _ = course(wanted, SearchRecord(wall_seconds=3599.0))
    assert not here.has_more and here.next_trial() is None


def test_as_many_run_at_once_as_may() -> None:
    here, events, _ = course(search(concurrency=3, trials=4))
    running = [here.next_trial() for _ in range(4)]
    assert [trial.number for trial in running if trial] == [1, 2, 3]
    assert here.heard(2, [succeeded()]) == "stop"
    fourth = here.next_trial()
    assert fourth and fourth.number == 4 and not here.has_more
    assert sum(isinstance(event, TrialProposed) for event in events) == 4


def test_a_lost_trial_is_begun_again_and_then_a_failed_row() -> None:
    here, events, clock = course(search())
    for _ in range(3):
        trial = here.next_trial()
        assert trial and trial.number == 1, "before any other"
        clock.now += 7
        here.lost(trial.number, "its node is gone")
    last = events[-1]
    assert isinstance(last, TrialFinished) and (last.status, last.code) == ("failed", "worker_lost")
    assert last.message and "its node is gone" in last.message and last.seconds == 21
    assert here.heard(1, [succeeded()]) == "stop", "what a zombie still says counts for nothing"
    assert events[-1] is last and here.is_idle


def test_values_and_bounds_are_told_with_the_end() -> None:
    wanted = search(constraints=["parameters <= 0.7", "perplexity.wikitext2 <= 9"])
    here, events, _ = course(wanted)
    trial = here.next_trial()
    assert trial
    here.heard(trial.number, [succeeded(perplexity=8.0)])
    last = events[-1]
    assert isinstance(last, TrialFinished) and last.values == [8.0]
    assert last.excesses == [pytest.approx(0.05), -1.0] and not last.is_feasible


def test_a_recorded_stop_stands_though_its_end_was_lost(tmp_path: Path) -> None:
    """Killed between the report that said stop and the trial's end."""
    wanted = SEARCHES["tpe, asha"]
    events = told(wanted, tmp_path / "whole")
    stop = next(at for at, event in enumerate(events) if getattr(event, "decision", None) == "stop")
    record, after = run_through(wanted, tmp_path / "killed", [stop + 1])
    assert facts(record) == facts(run_through(wanted, tmp_path / "undisturbed")[0])
    number = getattr(events[stop], "trial", None)
    assert [event.trial for event in after[stop + 1 :] if isinstance(event, TrialFinished)][0] == number
