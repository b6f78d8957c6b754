"""How points are chosen: grids in order, all kinds of values within their bounds, bounds heeded."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.workers.searching.searches import BASE, search
from workers.contracts.search import Search
from workers.contracts.trials import TrialFinished, TrialRecord, TrialReported
from workers.searching.samplers import proposed

EVERY_KIND = {
    "method.ratio": "uniform(0.1, 0.6)",
    "method.strength": "loguniform(1e-5, 1e-1)",
    "method.anneal_fraction": {"quniform": [0.1, 0.5, 0.1]},
    "recover.rank": "randint(2, 16)",
    "data.samples": "lograndint(8, 512)",
    "method.exact_norms": "boolean",
    "method.training": {"choice": [{"batch_size": 2}, {"batch_size": 4}]},
}


def ended(number: int, point: dict[str, Any], values: list[float | None], excesses: list[float] | None = None) -> Any:
    finished = TrialFinished(trial=number, status="succeeded", values=values, excesses=excesses)
    return TrialRecord(trial=number, point=point, finished=finished, ended_as=number)


def drawn(wanted: Search, count: int, value: Any = lambda point: 1.0) -> list[dict[str, Any]]:
    record: list[TrialRecord] = []
    for number in range(1, count + 1):
        point = proposed(wanted, number, record)
        assert point is not None
        record.append(ended(number, point, [value(point)] * len(wanted.objectives)))
    return [trial.point for trial in record]


@pytest.mark.parametrize("algorithm", ["random", "tpe", "nsga2"])
def test_every_kind_of_value_lies_in_its_space(algorithm: str) -> None:
    wanted = search(space=EVERY_KIND, algorithm=algorithm, trials=30)
    for point in drawn(wanted, 30):
        assert list(point) == list(EVERY_KIND)
        assert 0.1 <= point["method.ratio"] <= 0.6 and 1e-5 <= point["method.strength"] <= 1e-1
        assert any(math.isclose(point["method.anneal_fraction"], step) for step in (0.1, 0.2, 0.3, 0.4, 0.5))
        assert isinstance(point["recover.rank"], int) and 2 <= point["recover.rank"] <= 16
        assert isinstance(point["data.samples"], int) and 8 <= point["data.samples"] <= 512
        assert point["method.exact_norms"] in (True, False)
        wanted.recipe_at(point)


def test_a_logarithmic_range_spreads_over_its_decades() -> None:
    points = drawn(search(algorithm="random", trials=200), 200)
    decades = [math.floor(math.log10(point["method.strength"])) for point in points]
    assert all(30 < decades.count(decade) < 70 for decade in (-5, -4, -3, -2))


def test_a_grid_is_walked_through_in_order_after_what_comes_first() -> None:
    wanted = search(
        algorithm="grid",
        space={"method.ratio": {"quniform": [0.2, 0.3, 0.1]}, "method.norm": {"choice": ["l1", "l2"]}},
        first=[{"method.ratio": 0.3}],
        trials=None,
    )
    walked = [proposed(wanted, number, []) for number in range(1, 7)]
    assert walked == [
        {"method.ratio": 0.3},
        {"method.ratio": 0.2, "method.norm": "l1"},
        {"method.ratio": 0.2, "method.norm": "l2"},
        {"method.ratio": 0.3, "method.norm": "l1"},
        {"method.ratio": 0.3, "method.norm": "l2"},
        None,
    ]
    assert wanted.trials_at_most == 5


def test_under_a_scheduler_a_grid_is_walked_through_in_an_order_of_the_seeds() -> None:
    space = {
        "method.strength": {"choice": [step / 10 for step in range(1, 13)]},
        "method.norm": {"choice": ["l1", "l2"]},
    }
    grid: dict[str, Any] = {"algorithm": "grid", "space": space, "trials": None}

    def walked(**changes: Any) -> list[Any]:
        wanted = search(**grid, **changes)
        assert proposed(wanted, 25, []) is None
        return [proposed(wanted, number, []) for number in range(1, 25)]

    in_order, drawn, other = walked(), walked(scheduler="asha", seed=1), walked(scheduler="asha", seed=2)
    assert drawn != in_order and drawn != other and drawn == walked(scheduler="asha", seed=1)
    assert sorted(map(str, drawn)) == sorted(map(str, in_order)) == sorted(map(str, other))


@pytest.mark.parametrize("fields", [6, 22])
def test_a_vast_grid_is_drawn_from_without_walking_there(fields: int) -> None:
    """10^6 and 10^22 points, more than a range can count."""
    names = ["strength", "sensitivity", "refinement", "refinement_rate", "anneal_fraction", "distillation"]
    places = [f"method.{name}" for name in names] + [f"method.training.field{number}" for number in range(fields - 6)]
    space = {name: {"choice": [step / 10 for step in range(1, 11)]} for name in places}
    wanted = Search.model_validate({"base": BASE, "space": space, "objective": "perplexity.wikitext2 min",
                                    "algorithm": "grid", "scheduler": "asha", "trials": 20})  # fmt: skip
    drawn = [proposed(wanted, number, []) for number in range(1, 21)]
    assert len({str(point) for point in drawn}) == 20
    assert all(point is not None and list(point) == places for point in drawn)


def test_what_is_recorded_decides_alone() -> None:
    """Told in recorded order, whatever the numbers; the process's past does not count."""
    wanted = search(trials=40)
    points = drawn(wanted, 20, lambda point: abs(math.log10(point["method.strength"]) + 3))
    record = [ended(number, point, [float(number % 7)]) for number, point in enumerate(points, start=1)]
    asked = proposed(wanted, 21, record)
    assert asked == proposed(wanted, 21, record)
    turned = [trial.model_copy(update={"ended_as": 21 - trial.trial}) for trial in record]
    assert proposed(wanted, 21, turned) == proposed(wanted, 21, list(reversed(turned)))
    worse = [*record[:-1], ended(20, points[19], [100.0])]
    assert proposed(wanted, 21, worse) is not None


def test_trials_under_way_repel_the_next_one() -> None:
    """At concurrency above 1 two trials asked for at once are not the same point."""
    wanted = search(trials=40, concurrency=4)
    points = drawn(wanted, 20, lambda point: abs(math.log10(point["method.strength"]) + 3))
    record = [ended(n, point, [abs(math.log10(point["method.strength"]) + 3)]) for n, point in enumerate(points, 1)]
    first = proposed(wanted, 21, record)
    assert first is not None
    second = proposed(wanted, 22, [*record, TrialRecord(trial=21, point=first)])
    assert second != first


def test_bounds_are_heeded() -> None:
    """What passes a bound is worse than what keeps it, however good its value."""

    def share_kept(constraints: list[str]) -> float:
        wanted = search(
            space={"method.ratio": "uniform(0.1, 0.6)"},
            objective="perplexity.wikitext2 min",
            constraints=constraints,
            trials=60,
        )
        record: list[TrialRecord] = []
        for number in range(1, 61):
            point = proposed(wanted, number, record)
            assert point is not None
            ratio = float(str(point["method.ratio"]))
            excesses = [1 - ratio - 0.6] if constraints else None
            record.append(ended(number, point, [ratio, 1 - ratio], excesses))
        return sum(float(str(trial.point["method.ratio"])) >= 0.4 for trial in record[20:]) / 40

    assert share_kept(["parameters <= 0.6"]) > share_kept([])


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_failed_and_stopped_trials_and_missing_figures_are_taken(status: str) -> None:
    wanted = search(trials=40)
    points = drawn(wanted, 12)
    record = [ended(number, point, [1.0]) for number, point in enumerate(points, start=1)]
    report = TrialReported(trial=13, rung=0, value=None, decision="stop")
    broken = TrialFinished.model_validate({"trial": 13, "status": status})
    record.append(
        TrialRecord(trial=13, point={"method.strength": 0.01}, reports=[report], finished=broken, ended_as=13)
    )
    record.append(ended(14, {"method.strength": 0.5}, [None]))  # outside of the space, as `first` allows
    assert proposed(wanted, 15, record) is not None
