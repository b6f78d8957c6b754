"""What is drawn of several jobs is what their rows say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workers.figures.comparison import comparison_figures
from workers.figures.rendering import FORMS, rendered
from workers.figures.rows import Accuracy, ComparedRow

DENSE = ComparedRow(
    "dense", is_dense=True, parameters=8_000_000, perplexity={"ptb": 20.0}, accuracy={"piqa": Accuracy(0.6, 0.02)}
)


def row(method: str, perplexity: float | None, **settings: object) -> ComparedRow:
    return ComparedRow(f"row of {method}", method=method, perplexity={"ptb": perplexity}, **settings)  # type: ignore[arg-type]


def line_of(figure: Figure, label: str) -> Line2D:
    (bars,) = [bars for bars in figure.axes[0].containers if bars.get_label() == label]
    return bars.lines[0]


def drawn(figure: Figure, label: str) -> tuple[list[float], list[float]]:
    """The points drawn under this name."""
    line = line_of(figure, label)
    return list(line.get_xdata()), list(line.get_ydata())


def legend(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def test_quality_against_true_parameters() -> None:
    rows = [DENSE, row("DReSS", 22.0, parameters=6_000_000), row("SLEB", 30.0, parameters=6_500_000)]
    figure = comparison_figures(rows)["perplexity_by_parameters_ptb"]
    axes = figure.axes[0]
    assert drawn(figure, "DReSS") == ([6.0], [22.0])
    assert drawn(figure, "SLEB") == ([6.5], [30.0])
    assert axes.get_xlabel() == "Parameters of the exported model (millions)"
    assert axes.get_ylabel() == "Perplexity on PTB (lower is better)"
    assert legend(figure) == ["dense", "DReSS", "SLEB"]
    assert list(axes.collections[0].get_offsets()[0]) == [8.0, 20.0]


@pytest.mark.parametrize(
    ("count", "unit", "shown"),
    [(7_000_000_000, "billions", 7.0), (5_000_000, "millions", 5.0), (9000, "thousands", 9.0)],
)
def test_parameters_come_in_a_unit_that_suits_them(count: int, unit: str, shown: float) -> None:
    rows = [row("one", 3.0, parameters=count), row("two", 4.0, parameters=count)]
    figure = comparison_figures(rows)["perplexity_by_parameters_ptb"]
    assert unit in figure.axes[0].get_xlabel()
    assert drawn(figure, "one")[0] == [shown]


def test_quality_against_speed() -> None:
    rows = [
        row("DReSS", 22.0, tokens_per_second=1500.0, prompt_seconds=0.05),
        row("SLEB", 30.0, tokens_per_second=1700.0, prompt_seconds=0.04),
    ]
    figures = comparison_figures(rows)
    assert drawn(figures["perplexity_by_tokens_per_second_ptb"], "SLEB") == ([1700.0], [30.0])
    assert drawn(figures["perplexity_by_prompt_seconds_ptb"], "SLEB") == ([pytest.approx(40.0)], [30.0])
    assert "tokens/s" in figures["perplexity_by_tokens_per_second_ptb"].axes[0].get_xlabel()
    assert "(ms" in figures["perplexity_by_prompt_seconds_ptb"].axes[0].get_xlabel()


def test_rows_without_figures_are_left_out() -> None:
    rows = [
        DENSE,
        row("DReSS", 22.0, parameters=6_000_000),
        row("failed", None, parameters=6_000_000),
        row("diverged", float("nan"), parameters=6_000_000),
        ComparedRow("queued"),
    ]
    figure = comparison_figures(rows)["perplexity_by_parameters_ptb"]
    assert legend(figure) == ["dense", "DReSS"]
    assert comparison_figures([ComparedRow("queued"), ComparedRow("failed")]) == {}
    assert comparison_figures([]) == {}


def test_a_method_keeps_its_look_where_others_are_missing() -> None:
    rows = [row(name, 20.0 + place, parameters=1000 + place) for place, name in enumerate(("A", "B", "C"))]
    speeds = [replace(each, tokens_per_second=None if each.method == "A" else 5.0) for each in rows]
    figures = comparison_figures(speeds)
    one, other = (
        line_of(figures[name], "C") for name in ("perplexity_by_parameters_ptb", "perplexity_by_tokens_per_second_ptb")
    )
    assert (one.get_color(), one.get_marker()) == (other.get_color(), other.get_marker())


def test_perplexity_by_ratio_has_a_line_a_method() -> None:
    """The paper's Figure 4; two seeds at one place are a mean with whiskers."""
    rows = [DENSE, *(row("DReSS", 20 + 40 * ratio, ratio=ratio) for ratio in (0.6, 0.2, 0.4))]
    rows += [row("SLEB", value, ratio=ratio) for ratio, value in ((0.2, 25.0), (0.2, 27.0), (0.4, 50.0))]
    rows.append(row("control: dense, fine-tuned", 19.0, is_control=True))
    figure = comparison_figures(rows)["perplexity_by_ratio_ptb"]
    places, values = drawn(figure, "DReSS")
    assert places == pytest.approx([20, 40, 60]) and values == pytest.approx([28, 36, 44])
    assert drawn(figure, "SLEB") == (pytest.approx([20.0, 40.0]), [26.0, 50.0])
    axes = figure.axes[0]
    assert "(%)" in axes.get_xlabel()
    assert "whiskers" in axes.get_title()
    levels = {line.get_label(): line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]}
    assert levels == {"dense": 20.0, "control: dense, fine-tuned": 19.0}


def test_the_weight_of_the_penalty_runs_along_a_logarithmic_axis() -> None:
    """The shape of the paper's Table 6; its own figures."""
    strengths, values = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1], [7.47, 6.04, 5.86, 6.12, 10.55]
    rows = [row("DReSS", value, strength=strength) for strength, value in zip(strengths, values, strict=True)]
    figure = comparison_figures(rows)["perplexity_by_strength_ptb"]
    assert figure.axes[0].get_xscale() == "log"
    assert drawn(figure, "DReSS") == (strengths, values)
    zero = comparison_figures([*rows, row("DReSS", 9.0, strength=0.0)])["perplexity_by_strength_ptb"]
    assert drawn(zero, "DReSS") == (strengths, values)


def test_perplexity_by_the_amount_of_data() -> None:
    rows = [row("DReSS", 6.0 - place / 10, samples=500 * 2**place) for place in range(5)]
    figure = comparison_figures(rows)["perplexity_by_samples_ptb"]
    assert drawn(figure, "DReSS")[0] == [500, 1000, 2000, 4000, 8000]
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].get_xlabel() == "Training sequences"


def test_perplexity_by_corpus() -> None:
    """The paper's Figure 5."""
    seen = {"alpaca": 7.0, "wikitext2": 5.8, "ptb": 8.2}
    rows = [DENSE]
    for shift, method in enumerate(("DReSS", "SLEB")):
        rows += [row(method, value + shift, corpus=corpus) for corpus, value in seen.items()]
    figure = comparison_figures(rows)["perplexity_by_corpus_ptb"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Alpaca", "WikiText-2", "PTB"]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[7.0, 5.8, 8.2], [8.0, 6.8, 9.2]]
    assert legend(figure) == ["dense", "DReSS", "SLEB"]


def test_nothing_varied_gives_no_curve() -> None:
    rows = [row(name, 20.0, ratio=0.25, strength=1e-3, samples=100, corpus="c4") for name in ("DReSS", "SLEB")]
    assert comparison_figures(rows) == {}


def test_accuracy_by_task_has_bars_with_standard_errors() -> None:
    pruned = ComparedRow(
        "a name so long that it does not fit beside its bar",
        method="DReSS",
        accuracy={"piqa": Accuracy(0.55, 0.03), "my_task": Accuracy(0.4), "broken": Accuracy(float("nan"))},
    )
    figure = comparison_figures([DENSE, pruned, ComparedRow("queued")])["tasks"]
    piqa, own, _ = figure.axes
    assert [bar.get_width() for bar in piqa.patches] == pytest.approx([60, 55])
    (whisker,) = [bars for bars in piqa.containers if isinstance(bars, BarContainer)][1].errorbar.lines[2]
    assert whisker.get_segments()[0][:, 0] == pytest.approx([52, 58])
    assert [bar.get_width() for bar in own.patches] == pytest.approx([40])
    assert "chance" in piqa.get_xlabel() and "chance" not in own.get_xlabel()
    assert "(%" in piqa.get_xlabel()
    assert piqa.get_title() == "PIQA"
    names = [label.get_text() for label in piqa.get_yticklabels()]
    assert names[0] == "dense" and "\n" in names[1] and len(names) == 2


def test_mean_accuracy_against_parameters() -> None:
    scores = [Accuracy(0.61, 0.01), Accuracy(0.58, 0.01)]
    rows = [
        ComparedRow(name, parameters=count, accuracy={"paper_zero_shot": score})
        for name, count, score in zip(("one", "two"), (6_000_000, 7_000_000), scores, strict=True)
    ]
    figure = comparison_figures(rows)["accuracy_by_parameters"]
    assert drawn(figure, "two") == ([7.0], [pytest.approx(58)])
    assert "%" in figure.axes[0].get_ylabel()


def test_models_do_not_share_axes() -> None:
    rows = [
        replace(row(name, 20.0 + place, parameters=1_000_000 + place), model=model)
        for model in ("org/Small-7B", "org/large")
        for place, name in enumerate(("DReSS", "SLEB"))
    ]
    figures = comparison_figures(rows)
    assert set(figures) == {"perplexity_by_parameters_ptb_small_7b", "perplexity_by_parameters_ptb_large"}
    assert figures["perplexity_by_parameters_ptb_large"].get_suptitle().endswith("large")


@pytest.mark.parametrize("form", FORMS)
def test_every_figure_can_be_rendered(form: str) -> None:
    rows = [
        DENSE,
        *(row("DReSS", 5000.0**ratio + 5, ratio=ratio, parameters=10, corpus=f"c{ratio}") for ratio in (0.2, 0.9)),
    ]
    figures = comparison_figures(rows)
    assert figures
    assert all(len(rendered(figure, form)) > 5000 for figure in figures.values())  # type: ignore[arg-type]
