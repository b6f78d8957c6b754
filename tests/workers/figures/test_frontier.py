"""What one objective costs in another: steps, crosses, and nothing between two trials."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from tests.workers.figures.drawn import PLAIN, POINT, QUALITY, figures, joined, legend, marks, texts
from tests.workers.searching.trials import (
    DENSE_PARAMETERS,
    DENSE_PERPLEXITY,
    search,
    succeeded,
)


def test_the_frontier_is_joined_by_steps(whole: dict[str, Figure]) -> None:
    figure = whole[f"{QUALITY}_against_parameters"]
    axes = figure.axes[0]
    (dense, stairs) = joined(axes)
    assert dense[1] == [DENSE_PERPLEXITY] * 2
    assert stairs == (
        [pytest.approx(3.254, abs=1e-3), pytest.approx(4.634, abs=1e-3)],
        [pytest.approx(7.15), pytest.approx(6.534)],
    )
    (line,) = [each for each in axes.lines if list(each.get_xdata()) == stairs[0]]
    assert line.get_drawstyle() == "steps-post", "nothing is interpolated between two sizes"
    assert len(marks(axes, marker="x")) == 6, "those of ratio 0.2 are too large"
    pale = [line for line in axes.lines if line.get_alpha() == 0.3]
    assert [len(each.get_xdata()) for each in pale] == [8]
    star = next(each for each in axes.collections if each.get_label() == "dense model")
    assert list(star.get_offsets()[0]) == [pytest.approx(DENSE_PARAMETERS / 1e9), DENSE_PERPLEXITY]
    assert sorted(texts(axes)) == ["10", "17"]
    assert axes.get_xlabel() == "Parameters (billions, lower is better)"
    assert "frontier: beaten by none" in legend(figure) and "a constraint is not kept" in legend(figure)


def test_more_may_be_better_on_either_axis() -> None:
    """Steps then go down on the other side."""
    asked = search(
        space={"method.strength": "uniform(0, 1)"}, objective=["pruned.perplexity.wikitext2 max", "bytes max"], **PLAIN
    )
    values = [(5.0, 3.0 * 2**20), (6.0, 2.0 * 2**20), (4.0, 1.0 * 2**20)]
    trials = [
        succeeded(n, {"method.strength": 0.1 * n}, None, values=list(pair), excesses=[])
        for n, pair in enumerate(values, 1)
    ]
    figure = figures(*trials, asked=asked)["pruned_perplexity_wikitext2_against_bytes"]
    line = next(each for each in figure.axes[0].lines if each.get_drawstyle().startswith("steps"))
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([2, 3], [6, 5]) and line.get_drawstyle() == "steps-pre"
    assert figure.axes[0].get_xlabel() == "Weights on disk (MiB, higher is better)"
    assert figure.axes[0].get_ylabel() == "Perplexity on WikiText-2, pruned model (higher is better)"


def test_one_objective_is_set_against_parameters_where_these_differ() -> None:
    asked = search(space={"method.round_to": {"choice": [8, 64]}}, **PLAIN)
    trials = [
        succeeded(n, {"method.round_to": each}, 7.0 - n, parameters=1000 * n, values=[7.0 - n], excesses=[])
        for n, each in enumerate((8, 64), 1)
    ]
    made = figures(*trials, asked=asked)
    assert made[f"{QUALITY}_against_parameters"].axes[0].get_xlabel() == "Parameters (thousands, lower is better)"
    same = [trials[0], succeeded(2, {"method.round_to": 64}, 6.0, parameters=1000, values=[6.0], excesses=[])]
    assert f"{QUALITY}_against_parameters" not in figures(*same, asked=asked), "one size is no trade-off"


def test_every_further_objective_has_a_frontier() -> None:
    base = {
        "model": {"source": "owner/name"},
        "method": {"kind": "dress", "ratio": 0.2},
        "evaluate": {"perplexity": ["ptb"], "tasks": ["paper_zero_shot"], "speed": True},
    }
    objectives = ["perplexity.ptb min", "latency min", "tasks.paper_zero_shot max"]
    asked = search(base=base, objective=objectives, **PLAIN)
    trials = [
        succeeded(
            n, {**POINT, "method.ratio": ratio}, None, values=[6.0 + n, 0.05 / n, 0.6 - 0.1 * n, 1e9 / n], excesses=[]
        )
        for n, ratio in enumerate((0.2, 0.3, 0.5), 1)
    ]
    made = figures(*trials, asked=asked)
    labels = {name: figure.axes[0].get_xlabel() for name, figure in made.items() if "_against_" in name}
    assert labels == {
        "perplexity_ptb_against_latency": "Time of one prompt (ms, lower is better)",
        "perplexity_ptb_against_tasks_paper_zero_shot": "Mean zero-shot score (%, higher is better)",
        "perplexity_ptb_against_parameters": "Parameters (billions, lower is better)",
    }
    axes = made["perplexity_ptb_against_tasks_paper_zero_shot"].axes[0]
    assert [place for place, _ in marks(axes)] == pytest.approx([30, 40, 50])
