"""An objective along each field of a search is drawn as its trials have it."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from tests.workers.figures.drawn import PLAIN, POINT, QUALITY, figures, joined, legend, marks, ringed, strip, texts
from tests.workers.searching.trials import (
    DENSE_PERPLEXITY,
    perplexity,
    search,
    succeeded,
)


def test_the_weight_of_the_penalty_has_a_line_a_ratio(whole: dict[str, Figure]) -> None:
    """The shape of the paper's Table 6."""
    figure = whole[f"{QUALITY}_by_strength"]
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert figure.axes[1].get_xlabel() == "λ, weight of the penalty (logarithmic)"
    assert axes.get_ylabel() == "Perplexity on WikiText-2 (lower is better)"
    *lines, dense = joined(axes)
    assert dense == ([0, 1], [DENSE_PERPLEXITY, DENSE_PERPLEXITY])
    assert lines[2] == ([1e-3, 5e-3, 1e-2, 5e-2, 1e-1], [perplexity(each, 0.5) for each in lines[2][0]])
    assert len(lines) == 3 and len(marks(axes)) == 16
    assert ringed(axes) == [1e-3, pytest.approx(6.534)]
    assert legend(figure) == [
        "ratio 0.2",
        "ratio 0.3",
        "ratio 0.5",
        "best: trial 10",
        "open: a constraint is not kept",
        "dense model",
    ]
    looks = {(str(line.get_color()), str(line.get_linestyle())) for line in axes.lines if line.get_marker() == "None"}
    assert len(looks) == 4, "colour and dashes tell the same"


def test_open_marks_keep_not_every_constraint(whole: dict[str, Figure]) -> None:
    axes = whole[f"{QUALITY}_by_strength"].axes[0]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [len(line.get_xdata()) for line in hollow] == [6], "all of ratio 0.2, whose models are too large"


def test_trials_without_a_figure_stand_below(whole: dict[str, Figure]) -> None:
    figure = whole[f"{QUALITY}_by_strength"]
    below = strip(figure)
    assert below["stopped"] == [1e-5, 5e-3, 1e-1] and below["failed"] == [1e-4]
    assert below["unfinished"] == [pytest.approx(0.0046), pytest.approx(0.0048)] and below["not finite"] == [0.09]
    assert texts(figure.axes[1]) == ["×2"], "two stopped at 1e-5"
    assert len({line.get_marker() for line in figure.axes[1].lines}) == 4


def test_a_ratio_runs_in_per_cent(whole: dict[str, Figure]) -> None:
    figure = whole[f"{QUALITY}_by_ratio"]
    assert {place for place, _ in marks(figure.axes[0])} == {20, 30, 50}
    assert "(%)" in figure.axes[1].get_xlabel()
    assert len(joined(figure.axes[0])) == 1, "λ varies too, so that only the dense model's level is a line"


def test_the_ratio_alone_is_the_papers_figure_4() -> None:
    ratios = (0.6, 0.2, 0.4)
    asked = search(space={"method.ratio": {"choice": [0.2, 0.4, 0.6]}}, **PLAIN)
    made = figures(
        *(succeeded(n, {"method.ratio": ratio}, 10 * ratio) for n, ratio in enumerate(ratios, 1)), asked=asked
    )
    axes = made[f"{QUALITY}_by_ratio"].axes[0]
    line, _ = joined(axes)
    assert line == (pytest.approx([20, 40, 60]), pytest.approx([2, 4, 6]))
    assert axes.get_xlabel().startswith("Ratio"), "without a strip the axis has its label itself"


def test_words_stand_side_by_side_in_the_order_of_the_space() -> None:
    """The paper's Table 5, with two norms beside each other."""
    splits = ["4:1", "3:1", "1:3"]
    asked = search(space={"data.split": {"choice": splits}, "method.norm": {"choice": ["l1", "l2"]}}, **PLAIN)
    points = [{"data.split": split, "method.norm": norm} for split in reversed(splits) for norm in ("l1", "l2")]
    made = figures(*(succeeded(n, point, 5.0 + n) for n, point in enumerate(points, 1)), asked=asked)
    figure = made[f"{QUALITY}_by_split"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == splits and axes.get_xlabel() == "data.split"
    places = [place for place, _ in marks(axes)]
    assert [round(place) for place in places] == [0, 0, 1, 1, 2, 2] and len(set(places)) == 6
    assert [value for _, value in marks(axes)] == [10, 11, 8, 9, 6, 7]
    assert legend(figure)[:2] == ["l1", "l2"]
    alone = made[f"{QUALITY}_by_norm"]
    assert legend(alone)[:3] == ["split 4:1", "split 3:1", "split 1:3"]


def test_numbers_far_apart_are_drawn_by_orders_of_magnitude() -> None:
    asked = search(space={"data.samples": {"choice": [0, 500, 8000]}, "method.strength": "uniform(0, 1)"}, **PLAIN)
    points = [{"data.samples": count, "method.strength": 0.1 * n} for n, count in enumerate((500, 8000), 1)]
    made = figures(*(succeeded(n, point, 5.0 + n) for n, point in enumerate(points, 1)), asked=asked)
    assert made[f"{QUALITY}_by_samples"].axes[0].get_xscale() == "linear", "nothing has a logarithm at 0"
    assert made[f"{QUALITY}_by_strength"].axes[0].get_xscale() == "linear", "the space says uniform"
    wide = search(space={"data.samples": {"choice": [500, 8000]}}, **PLAIN)
    made = figures(*(succeeded(n, {"data.samples": each}, 5.0) for n, each in enumerate((500, 8000), 1)), asked=wide)
    assert made[f"{QUALITY}_by_samples"].axes[0].get_xscale() == "log"


def test_what_has_no_place_on_a_logarithmic_axis_is_told() -> None:
    trials = [succeeded(n, {**POINT, "method.strength": each}, 7.0) for n, each in enumerate((0.0, 1e-4, 1e-3), 1)]
    axes = figures(*trials)[f"{QUALITY}_by_strength"].axes[0]
    assert [place for place, _ in marks(axes)] == [1e-4, 1e-3]
    assert axes.get_title() == "1 of 3 trials have no place on this axis"
