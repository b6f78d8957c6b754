"""What is drawn of a search is what its trials say."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.workers.searching.trials import (
    DENSE_PARAMETERS,
    DENSE_PERPLEXITY,
    STRENGTHS,
    ended,
    perplexity,
    record,
    reported,
    search,
    succeeded,
)
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord, TrialRecord
from workers.figures import search as drawing
from workers.figures.rendering import FORMS, rendered
from workers.figures.search import search_figures, write_search_figures
from workers.searching.table import TrialRow, rows_of

QUALITY = "recovered_perplexity_wikitext2"
POINT = {"method.strength": 1e-3, "method.ratio": 0.3}
PLAIN: dict[str, Any] = {"constraints": [], "scheduler": None}


def figures(*trials: TrialRecord, asked: Search | None = None) -> dict[str, Figure]:
    asked = asked or search()
    return search_figures(asked, rows_of(asked, SearchRecord(trials=list(trials))))


@pytest.fixture(scope="module")
def whole() -> dict[str, Figure]:
    rows = rows_of(search(), record())
    timed = [row.model_copy(update={"ended_seconds": row.ended_as and 600.0 * row.ended_as}) for row in rows]
    return search_figures(search(), timed)


def legend(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def marks(axes: Axes, *, marker: str | None = None) -> list[tuple[float, float]]:
    """The places of all trials drawn as marks of their own, from left to right."""
    lines = [line for line in axes.lines if line.get_linestyle() == "None" and marker in (None, line.get_marker())]
    return sorted(pair for line in lines for pair in zip(line.get_xdata(), line.get_ydata(), strict=True))


def joined(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """The lines that join trials."""
    lines = [line for line in axes.lines if line.get_linestyle() != "None" and line.get_marker() == "None"]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines if len(line.get_xdata())]


def ringed(axes: Axes) -> list[float]:
    """Where the ring around the best stands."""
    (ring,) = [each for each in axes.collections if len(each.get_offsets()) and each.get_facecolor().size == 0]
    return list(ring.get_offsets()[0])


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def strip(figure: Figure) -> dict[str, list[float]]:
    """Trials without a figure, by what became of them."""
    axes = figure.axes[1]
    kinds = [label.get_text() for label in axes.get_yticklabels()]
    return {kind: list(line.get_xdata()) for kind, line in zip(kinds, axes.lines, strict=True)}


def test_the_figures_of_a_search_have_names_that_files_allow(whole: dict[str, Figure]) -> None:
    assert set(whole) == {
        f"{QUALITY}_by_strength",
        f"{QUALITY}_by_ratio",
        f"{QUALITY}_against_parameters",
        f"{QUALITY}_by_ending",
        f"{QUALITY}_over_time",
        "parallel_coordinates",
        "loss_at_rungs",
    }
    assert all(figure.get_suptitle().endswith("\nλ at three ratios") for figure in whole.values())


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
    assert legend(alone)[:3] == ["4:1", "3:1", "1:3"]


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


def test_the_frontier_is_joined_by_steps(whole: dict[str, Figure]) -> None:
    figure = whole[f"{QUALITY}_against_parameters"]
    axes = figure.axes[0]
    (dense, stairs) = joined(axes)
    assert dense[1] == [DENSE_PERPLEXITY] * 2
    assert stairs == ([pytest.approx(3.254, abs=1e-3), pytest.approx(4.634, abs=1e-3)], [7.15, pytest.approx(6.534)])
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
    assert len(without) == 8 and all(line.get_linestyle() == ":" or line.get_linestyle() != "-" for line in without)
    assert {"0.1", "1e-5", "20", "50", "6.53", "11.1"} <= set(texts(axes))
    assert legend(figure) == ["no figure: stopped, failed or unfinished", "best: trial 10"]


def test_parallel_coordinates_name_words_and_leave_out_what_does_not_fit() -> None:
    space: dict[str, Any] = {"method.norm": {"choice": ["l1", "l2"]}, "recover": {"choice": [{"kind": "none"}]}}
    space |= {f"method.field_{n}": "uniform(0, 1)" for n in range(12)}
    asked = search(space=space, objective="pruned.perplexity.wikitext2 min", **PLAIN)
    trials = [
        succeeded(
            n, {"method.norm": norm, **{f"method.field_{k}": n / 10 for k in range(12)}}, 7.0 + n, values=[7.0 + n]
        )
        for n, norm in enumerate(("l2", "l1"), 1)
    ]
    figure = figures(*trials, asked=asked)["parallel_coordinates"]
    axes = figure.axes[0]
    assert len(axes.get_xticklabels()) == 9 and axes.get_title() == "the first 8 of 13 fields"
    assert {"l1", "l2"} <= set(texts(axes))
    assert all(label.get_rotation() == 25 for label in axes.get_xticklabels())


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


def test_nothing_to_draw_gives_no_figure() -> None:
    assert figures() == {}
    assert figures(*(ended(n, "failed", {**POINT, "method.strength": 10.0**-n}) for n in (1, 2, 3))) == {}
    assert figures(TrialRecord(trial=1, point=POINT)) == {}
    assert figures(succeeded(1, POINT, None), succeeded(2, {**POINT, "method.strength": 1e-2}, None)) == {}
    assert set(figures(succeeded(1, POINT, 7.0))) == {f"{QUALITY}_by_ending"}, "one trial has a value and no more"


def test_what_no_dense_model_is_known_for_has_no_level() -> None:
    row = TrialRow(trial=1, status="succeeded", point=POINT, values={"recovered.perplexity.wikitext2": 7.0})
    other = row.model_copy(update={"trial": 2, "point": {**POINT, "method.strength": 0.1}})
    made = search_figures(search(), [row, other])
    assert set(made) == {f"{QUALITY}_by_strength", f"{QUALITY}_by_ending", "parallel_coordinates"}
    assert "dense model" not in legend(made[f"{QUALITY}_by_strength"])
    assert len(made["parallel_coordinates"].axes[0].get_xticklabels()) == 2, "no parameters were measured"


def test_a_figure_that_fails_loses_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def broken(*_: object) -> Figure:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(drawing, "parallel_coordinates", broken)
    really = drawing.saved

    def saved(figures: dict[str, Figure], folder: Path) -> list[Path]:
        return broken() and [] if "loss_at_rungs" in figures else really(figures, folder)

    monkeypatch.setattr(drawing, "saved", saved)
    rows = rows_of(search(), record())
    with caplog.at_level(logging.ERROR):
        files = write_search_figures(search(), rows, tmp_path)
    assert {file.stem for file in files} == {
        f"{QUALITY}_by_strength",
        f"{QUALITY}_by_ratio",
        f"{QUALITY}_against_parameters",
        f"{QUALITY}_by_ending",
    }
    assert [each.getMessage() for each in caplog.records] == [
        "the search's figure parallel_coordinates cannot be drawn",
        "the search's figure loss_at_rungs cannot be rendered",
    ]


def test_one_figure_can_be_had_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> Figure:
        raise AssertionError("not asked for")

    monkeypatch.setattr(drawing, "at_rungs", unwanted)
    assert set(search_figures(search(), rows_of(search(), record()), only="parallel_coordinates")) == {
        "parallel_coordinates"
    }
    assert search_figures(search(), rows_of(search(), record()), only="no such figure") == {}


def test_figures_are_files_whose_text_stays_text(tmp_path: Path) -> None:
    asked = search(title="costs $5 & <more>")
    files = write_search_figures(asked, rows_of(asked, record()), tmp_path)
    assert len(files) == 12 and {file.suffix for file in files} == {".svg", ".png"}
    assert all(file.stat().st_size > 5000 for file in files)
    for file in files:
        if file.suffix == ".svg":
            root = ElementTree.fromstring(file.read_text("utf-8"))
            told = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
            assert "costs $5 & <more>" in told
    assert "strength" in (tmp_path / "parallel_coordinates.svg").read_text("utf-8")


def test_the_same_trials_give_the_same_bytes(whole: dict[str, Figure]) -> None:
    again = search_figures(search(), rows_of(search(), record()))
    for form in FORMS:
        for name in ("parallel_coordinates", f"{QUALITY}_against_parameters"):
            assert rendered(again[name], form) == rendered(whole[name], form)


def test_many_trials_and_long_names_can_be_rendered(tmp_path: Path) -> None:
    asked = search(
        title="a title that is long " * 8, space={**search().model_dump()["space"], "seed": "randint(0, 9999)"}
    )
    trials = [
        succeeded(
            n, {"method.strength": STRENGTHS[n % 7] * (1 + n / 500), "method.ratio": 0.3, "seed": n}, 6.0 + n % 13
        )
        for n in range(1, 200)
    ]
    files = write_search_figures(asked, rows_of(asked, SearchRecord(trials=trials)), tmp_path)
    assert f"{QUALITY}_by_seed.png" in {file.name for file in files} and len(files) == 10


def test_figures_need_no_torch() -> None:
    code = "import sys, workers.figures.search; print(*{'torch', 'ray', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
