"""The best trial and the frontier, against a look at every pair."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.searching.searches import search
from workers.contracts.trials import TrialFinished
from workers.searching.ranking import best, frontier

ONE = search()
TWO = search(objective=["perplexity.wikitext2 min", "tasks.piqa max"])


def ended(*rows: list[float | None], excess: float | None = None) -> list[TrialFinished]:
    excesses = None if excess is None else [excess]
    return [
        TrialFinished(trial=number, status="succeeded", values=values, excesses=excesses)
        for number, values in enumerate(rows, start=1)
    ]


def test_the_best_has_the_best_first_objective() -> None:
    assert best(ONE, ended([3.0], [1.0], [1.0], [None])) == 2
    assert best(ONE, ended([None])) is None and best(ONE, []) is None
    assert best(TWO, ended([1.0, 0.3], [1.0, 0.9], [2.0, 1.0])) == 2
    assert best(ONE, ended([1.0], excess=0.1)) is None
    assert best(ONE, ended([1.0], excess=0.0)) == 1
    failed = TrialFinished(trial=7, status="failed")
    assert best(ONE, [failed, TrialFinished(trial=8, status="stopped")]) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_the_frontier_holds_what_none_beats(points: list[tuple[int, int]]) -> None:
    rows = ended(*([float(x), float(y)] for x, y in points))

    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    unbeaten = [number for number, point in enumerate(points, 1) if not any(beats(other, point) for other in points)]
    first = [number for number in unbeaten if points.index(points[number - 1]) == number - 1]
    assert sorted(frontier(TWO, rows)) == sorted(first)
    assert [points[number - 1][0] for number in frontier(TWO, rows)] == sorted(points[n - 1][0] for n in first)
