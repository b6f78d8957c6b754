"""A search as it went: trials in the order of their ends, over time, and at the rungs."""

from __future__ import annotations

import math

import pytest
from matplotlib.figure import Figure

from tests.workers.figures.drawn import POINT, QUALITY, figures, legend, marks, ringed, strip
from tests.workers.searching.trials import (
    ended,
    perplexity,
    reported,
    search,
    succeeded,
)
from workers.contracts.trials import SearchRecord
from workers.figures.search import search_figures
from workers.searching.table import rows_of


def test_trials_in_the_order_of_their_ends_and_the_best_so_far(whole: dict[str, Figure]) -> None:
    figure = whole[f"{QUALITY}_by_ending"]
    axes = figure.axes[0]
    assert [place for place, _ in marks(axes)] == [1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 17, 18, 19, 20, 21]
    steps = next(each for each in axes.lines if each.get_label() == "best so far")
    assert list(steps.get_xdata()) == [1, 10, 22], "3 was better, but too large"
    assert list(steps.get_ydata()) == pytest.approx([perplexity(5e-3, 0.3), 6.534, 6.534])
    assert steps.get_drawstyle() == "steps-post" and ringed(axes) == [10, pytest.approx(6.534)]
    assert strip(figure) == {"stopped": [7, 14, 15, 16], "failed": [5], "not finite": [22]}
    assert figure.axes[1].get_xlabel() == "Trials in the order of their ends"


def test_time_runs_in_a_unit_that_suits_it(whole: dict[str, Figure]) -> None:
    figure = whole[f"{QUALITY}_over_time"]
    assert figure.axes[1].get_xlabel() == "Time since the search was started (hours)"
    assert ringed(figure.axes[0]) == [pytest.approx(10 / 6), pytest.approx(6.534)]
    row = rows_of(search(), SearchRecord(trials=[succeeded(1, POINT, 7.0)]))[0]
    for seconds, unit in ((7.0, "seconds"), (300.0, "minutes")):
        made = search_figures(search(), [row.model_copy(update={"ended_seconds": seconds})])
        assert f"({unit})" in made[f"{QUALITY}_over_time"].axes[0].get_xlabel()


def test_rungs_have_a_panel_a_ratio_and_a_cross_where_a_trial_stops(whole: dict[str, Figure]) -> None:
    figure = whole["loss_at_rungs"]
    assert [axes.get_title() for axes in figure.axes] == ["ratio 0.2", "ratio 0.3", "ratio 0.5"]
    assert [len(axes.lines) for axes in figure.axes] == [7, 7, 6]
    middle = figure.axes[1]
    best = next(line for line in middle.lines if line.get_label() == "best: trial 10")
    assert list(best.get_xdata()) == pytest.approx([100 / 9, 100 / 3])
    assert list(best.get_ydata()) == pytest.approx([math.log(6.534) + 1.4, math.log(6.534) + 0.7])
    crosses = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "X"]
    assert sorted(len(line.get_xdata()) for line in crosses) == [1, 1, 2, 2]
    assert all(line.get_markevery() == [len(line.get_xdata()) - 1] for line in crosses), "at its last rung"
    assert {line.get_label() for line in crosses} == {"stopped"}
    assert [label.get_text() for label in middle.get_xticklabels()] == ["11.1", "33.3"]
    assert set(legend(figure)) == {"went on", "stopped", "best: trial 10"}


def test_a_report_that_is_no_number_is_told() -> None:
    trials = [
        ended(n, "stopped", POINT).model_copy(update={"reports": reported(n, values, stopped=True)})
        for n, values in enumerate([[3.0, None], [None], [2.5]], 1)
    ]
    axes = figures(*trials)["loss_at_rungs"].axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[3.0], [2.5]]
    assert axes.get_title() == "1 more reported no finite number"
