"""A line a trial through its settings and what came of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.workers.figures.drawn import PLAIN, figures, legend, texts
from tests.workers.searching.trials import (
    search,
    succeeded,
)


def test_parallel_coordinates_run_through_settings_and_figures(whole: dict[str, Figure]) -> None:
    figure = whole["parallel_coordinates"]
    axes, bar = figure.axes
    names = [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]
    assert names == ["strength", "ratio (%)", "Perplexity on WikiText-2 ↓", "Parameters (billions) ↓"]
    assert bar.get_ylabel() == "Perplexity on WikiText-2 (lower is better)"
    courses = [line for line in axes.lines if list(line.get_xdata()) == [0, 1, 2, 3]]
    assert len(courses) == 24
    (best,) = [line for line in courses if str(line.get_label()) == "best: trial 10"]
    heights = list(best.get_ydata())
    assert heights[0] == pytest.approx(0.5), "by orders of magnitude from 1e-5 to 1e-1"
    assert heights[1] == pytest.approx(1 / 3) and best.get_linewidth() == max(each.get_linewidth() for each in courses)
    without = [line for line in courses if math.isnan(float(line.get_ydata()[2]))]
    assert len(without) == 8 and {line.get_linestyle() for line in without} == {"--"}
    assert {"0.1", "1e-5", "20", "50", "6.53", "11.1"} <= set(texts(axes))
    assert legend(figure) == ["no figure: stopped, failed or unfinished", "best: trial 10"]


def test_parallel_coordinates_name_words_and_leave_out_what_does_not_fit() -> None:
    space: dict[str, Any] = {"method.norm": {"choice": ["l1", "l2"]}, "recover": {"choice": [{"kind": "none"}]}}
    space |= {f"method.field_{n}": "uniform(0, 1)" for n in range(12)}
    asked = search(space=space, objective="pruned.perplexity.wikitext2 min", **PLAIN)
    trials = []
    for n, norm in enumerate(("l2", "l1"), 1):
        point = {"method.norm": norm, **{f"method.field_{k}": n / 10 for k in range(12)}}
        trials.append(succeeded(n, point, 7.0 + n, values=[7.0 + n]))
    figure = figures(*trials, asked=asked)["parallel_coordinates"]
    axes = figure.axes[0]
    assert len(axes.get_xticklabels()) == 9 and axes.get_title() == "the first 8 of 13 fields"
    assert {"l1", "l2"} <= set(texts(axes))
    assert all(label.get_rotation() == 25 for label in axes.get_xticklabels())
