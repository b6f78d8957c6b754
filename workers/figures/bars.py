"""Bars: accuracy by task with standard errors, and perplexity by the corpus a method saw (the paper's Figure 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes as Panel
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from workers.figures.rows import ComparedRow
from workers.figures.scatter import Axis
from workers.figures.series import Line, lines_along, method_of
from workers.figures.style import (
    DENSE_COLOUR,
    figure_of,
    finite,
    legend_below,
    level_line,
    look,
    shown_text,
    wrapped,
)

CHANCE = {"piqa": 0.5, "winogrande": 0.5, "hellaswag": 0.25, "arc_easy": 0.25, "arc_challenge": 0.25}
"""The share that guessing gets right, of tasks whose questions have a fixed number of choices."""

HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---")
PANELS_A_LINE = 3


def corpus_bars(rows: Sequence[ComparedRow], quality: Axis, title: str) -> Figure | None:
    """Perplexity by corpus, one bar a method; None unless a method saw two corpora."""
    asked = [row for row in rows if not row.is_control]
    lines = lines_along(asked, "corpus", quality.value)
    if not any(len(line.points) > 1 for line in lines):
        return None
    corpora = list(dict.fromkeys(str(point.place) for line in lines for point in line.points))
    figure = figure_of(f"{quality.label.partition(' (')[0]} by the corpus that the method saw{title}")
    axes = figure.subplots()
    width = 0.8 / len(lines)
    for number, line in enumerate(lines):
        _group(axes, line, corpora, number, width, (number - (len(lines) - 1) / 2) * width)
    dense = next((value for row in rows if row.is_dense and finite(value := quality.value(row))), None)
    if dense is not None:
        level_line(axes, dense, "dense")
    axes.set_xticks(range(len(corpora)), [wrapped(shown_text(corpus), 14) for corpus in corpora])
    axes.set_xlabel("Corpus of regularization and recovery")
    axes.set_ylabel(quality.label)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.12)
    legend_below(figure, [axes])
    return figure


def _group(axes: Panel, line: Line, corpora: Sequence[str], number: int, width: float, shift: float) -> None:
    """The bars of one line, each with its figure above it."""
    colour, _, _ = look(number)
    bars = axes.bar(
        [corpora.index(str(point.place)) + shift for point in line.points],
        [point.mean for point in line.points],
        width,
        yerr=[[p.mean - p.least for p in line.points], [p.most - p.mean for p in line.points]]
        if any(point.count > 1 for point in line.points)
        else None,
        color=colour,
        hatch=HATCHES[number % len(HATCHES)],
        edgecolor="white",
        linewidth=0.5,
        capsize=3,
        label=line.label,
    )
    axes.bar_label(bars, [f"{point.mean:.4g}" for point in line.points], fontsize=8, padding=2)


def task_bars(rows: Sequence[ComparedRow], tasks: Sequence[str], title: str) -> Figure | None:
    """One panel a task, one bar a row with its standard error; None if no row was measured."""
    shown = [row for row in rows if any(_accuracy(row, task) is not None for task in tasks)]
    if not shown:
        return None
    across = min(PANELS_A_LINE, len(tasks))
    down = math.ceil(len(tasks) / across)
    names = [wrapped("dense" if row.is_dense else row.name, 28) for row in shown]
    lines = len(names) * max(name.count("\n") + 1 for name in names)
    figure = figure_of(f"Zero-shot accuracy by task{title}", 1.2 + down * (0.75 + 0.15 * max(lines, 4)))
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    methods = list(dict.fromkeys(method_of(row) for row in shown if not row.is_dense))
    for place, panel in enumerate(panels.flat):
        if place >= len(tasks):
            panel.set_visible(False)
            continue
        _panel(panel, shown, tasks[place], methods)
        panel.set_yticks(range(len(shown)), names, fontsize=8)
    panels[0, 0].invert_yaxis()
    return figure


def _panel(axes: Panel, rows: Sequence[ComparedRow], task: str, methods: Sequence[str]) -> None:
    for height, row in enumerate(rows):
        value = _accuracy(row, task)
        if value is None:
            continue
        number = 0 if row.is_dense else methods.index(method_of(row))
        error = row.accuracy[task].standard_error
        axes.barh(
            height,
            value,
            xerr=100 * error if error is not None and finite(error) else None,
            color=DENSE_COLOUR if row.is_dense else look(number)[0],
            hatch="" if row.is_dense else HATCHES[number % len(HATCHES)],
            edgecolor="white",
            linewidth=0.5,
            error_kw={
                **{"elinewidth": 1.2, "capsize": 3, "ecolor": "#1a1a1a"},
                "path_effects": [withStroke(linewidth=3, foreground="white")],  # seen on dark bars too
            },
        )
    if task in CHANCE:
        axes.axvline(100 * CHANCE[task], color="#1a1a1a", linestyle=(0, (1.2, 1.2)), linewidth=1.2, label="chance")
    axes.set_title(shown_text(task), fontsize=10)
    axes.set_xlabel("Accuracy (%)" + (", dots: chance" if task in CHANCE else ""), fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)


def _accuracy(row: ComparedRow, task: str) -> float | None:
    """In per cent, if it is known."""
    found = row.accuracy.get(task)
    return 100 * found.value if found is not None and finite(found.value) else None
