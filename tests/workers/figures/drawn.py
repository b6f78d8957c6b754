"""What of a search's figures is looked at."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.workers.searching.trials import search
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord, TrialRecord
from workers.figures.search import search_figures
from workers.searching.table import rows_of

QUALITY = "recovered_perplexity_wikitext2"
POINT = {"method.strength": 1e-3, "method.ratio": 0.3}
PLAIN: dict[str, Any] = {"constraints": [], "scheduler": None}


def figures(*trials: TrialRecord, asked: Search | None = None) -> dict[str, Figure]:
    asked = asked or search()
    return search_figures(asked, rows_of(asked, SearchRecord(trials=list(trials))))


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
