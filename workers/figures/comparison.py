"""Figures of several jobs side by side: what a model kept against what it costs, by task, and along what was varied."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from workers.figures.bars import corpus_bars, task_bars
from workers.figures.curves import curve
from workers.figures.rows import ComparedRow
from workers.figures.scatter import Axis, by_latency, by_parameters, by_throughput, scatter
from workers.figures.style import shown_text, styled

MEANS = ("paper_zero_shot", "paper_zero_shot_mean", "mean")
"""Names under which the mean over the zero-shot tasks may stand."""


def comparison_figures(rows: Sequence[ComparedRow]) -> dict[str, Figure]:
    """The figures that the rows allow, by file name without ending.

    A figure of quality against cost needs two models; a curve needs a method at two places of its axis. Rows of
    several dense models make a set of figures each, the model's name at the end of the file's.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    figures: dict[str, Figure] = {}
    for model in models:
        own = [row for row in rows if row.model == model]
        ending = f"_{file_name(model)}" if len(models) > 1 else ""
        title = f" · {_short(model)}" if model else ""
        with styled():
            drawn = _of_one_model(own, title)
        figures |= {f"{name}{ending}": figure for name, figure in drawn.items() if figure is not None}
    return figures


def _of_one_model(rows: Sequence[ComparedRow], title: str) -> dict[str, Figure | None]:
    figures: dict[str, Figure | None] = {}
    for text in dict.fromkeys(text for row in rows for text in row.perplexity):
        quality = Axis(f"Perplexity on {shown_text(text)} (lower is better)", _perplexity(text))
        for name, cost in (
            ("parameters", by_parameters(rows)),
            ("tokens_per_second", by_throughput()),
            ("prompt_seconds", by_latency(rows)),
        ):
            heading = f"{shown_text(text)}: perplexity against {cost.short}{title}"
            figures[f"perplexity_by_{name}_{file_name(text)}"] = scatter(rows, cost, quality, heading)
        for setting in ("ratio", "strength", "samples"):
            figures[f"perplexity_by_{setting}_{file_name(text)}"] = curve(rows, setting, quality, title)
        figures[f"perplexity_by_corpus_{file_name(text)}"] = corpus_bars(rows, quality, title)
    tasks = list(dict.fromkeys(task for row in rows for task in row.accuracy))
    mean = next((name for name in MEANS if name in tasks), None)
    if mean is not None:
        quality = Axis("Mean zero-shot accuracy (%, higher is better)", _accuracy(mean), _standard_error(mean))
        heading = f"Zero-shot accuracy against parameters{title}"
        figures["accuracy_by_parameters"] = scatter(rows, by_parameters(rows), quality, heading)
    figures["tasks"] = task_bars(rows, tasks, title)
    return figures


def file_name(text: str) -> str:
    """A name that files and web addresses allow."""
    return re.sub(r"[^a-z0-9]+", "_", _short(text).lower()).strip("_") or "model"


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name


def _perplexity(text: str) -> Callable[[ComparedRow], float | None]:
    return lambda row: row.perplexity.get(text)


def _accuracy(task: str) -> Callable[[ComparedRow], float | None]:
    return lambda row: 100 * row.accuracy[task].value if task in row.accuracy else None


def _standard_error(task: str) -> Callable[[ComparedRow], float | None]:
    def error(row: ComparedRow) -> float | None:
        found = row.accuracy.get(task)
        return None if found is None or found.standard_error is None else 100 * found.standard_error

    return error
