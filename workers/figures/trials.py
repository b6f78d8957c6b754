"""Trials as marks: those measured by their figure, open where a constraint is not kept; the others in a strip below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workers.figures.measures import Measure
from workers.figures.style import DENSE_COLOUR, GREY, figure_of, finite, level_line, scale_by_range, wrapped
from workers.searching.row import TrialRow
from workers.searching.table import SearchTable

INK = "#1a1a1a"
BACKGROUND = "white"

MANY_TRIALS = 100
"""From so many on, marks are small."""

UNMEASURED: Mapping[str, tuple[str, str]] = {
    "stopped": ("|", DENSE_COLOUR),
    "failed": ("x", "#D55E00"),
    "unfinished": ("o", GREY),
    "not finite": ("^", "#CC79A7"),
}
"""Mark and colour of trials without a figure, by what became of them, in the strip's order."""


@dataclass(frozen=True)
class Mark:
    """A trial and its place on the figure's axes."""

    row: TrialRow
    place: float
    value: float


@dataclass(frozen=True)
class Panels:
    """The axes of the figures, and the strip below for trials that have none."""

    main: Axes
    strip: Axes | None

    @property
    def lowest(self) -> Axes:
        """Which of them has the horizontal axis' label."""
        return self.strip or self.main


def headed(title: str, table: SearchTable, height_inches: float = 4.0) -> Figure:
    """An empty figure with its title, and with the search's in a line of its own."""
    figure = figure_of(title, height_inches)
    if table.title:
        below = wrapped(table.title, 64)
        figure.suptitle(f"{figure.get_suptitle()}\n{below}", fontsize=11, fontweight="bold")
        figure.set_figheight(height_inches + 0.18 * (1 + below.count("\n")))
    return figure


def panels(title: str, table: SearchTable, unmeasured: Sequence[tuple[TrialRow, float]]) -> tuple[Figure, Panels]:
    """A figure with its axes, and a strip with a line for each kind of trials without a figure, if there are any."""
    kinds = [kind for kind in UNMEASURED if any(standing(row) == kind for row, _ in unmeasured)]
    figure = headed(title, table, 4.0 + 0.22 * len(kinds))
    if not kinds:
        return figure, Panels(figure.subplots(), None)
    main, strip = figure.subplots(2, 1, sharex=True, height_ratios=[15, len(kinds)])
    main.tick_params(axis="x", which="both", length=0)
    for height, kind in enumerate(kinds):
        _line_of(strip, height, kind, Counter(place for row, place in unmeasured if standing(row) == kind))
    strip.set_yticks(range(len(kinds)), kinds)
    strip.set_ylim(len(kinds) - 0.4, -0.6)
    strip.tick_params(axis="y", length=0)
    strip.grid(visible=False, axis="y")
    strip.spines["left"].set_visible(False)
    return figure, Panels(main, strip)


def _line_of(strip: Axes, height: float, kind: str, counts: Mapping[float, int]) -> None:
    """A mark at each place, and how many stand there if there are several."""
    mark, colour = UNMEASURED[kind]
    face = BACKGROUND if mark == "o" else colour
    (marks,) = strip.plot(list(counts), [height] * len(counts), mark, color=colour, markerfacecolor=face)
    marks.set(markeredgewidth=1.5, clip_on=False)
    for place, count in counts.items():
        if count > 1:
            told = strip.annotate(f"×{count}", (place, height), (6, 0), textcoords="offset points")
            told.set(fontsize=7, color=colour, verticalalignment="center")


def standing(row: TrialRow) -> str:
    """Why a trial has no figure, as the strip calls it."""
    if row.status == "succeeded":
        return "not finite"
    return row.status if row.status in UNMEASURED else "unfinished"


def marked(rows: Iterable[TrialRow], places: Mapping[int, float | None], measure: Measure) -> list[Mark]:
    """The trials that have a place and a figure."""
    found = ((row, places.get(row.trial), measure.value(row)) for row in rows)
    return [Mark(row, place, value) for row, place, value in found if place is not None and value is not None]


def unmeasured(
    rows: Iterable[TrialRow], places: Mapping[int, float | None], measure: Measure
) -> list[tuple[TrialRow, float]]:
    """The trials that have a place and no figure."""
    return [
        (row, place)
        for row in rows
        if measure.value(row) is None and (place := places.get(row.trial)) is not None and finite(place)
    ]


def draw_marks(axes: Axes, marks: Sequence[Mark], look: tuple[str, str, Any]) -> None:
    """Each trial as a mark of this look, open where it keeps not every constraint."""
    colour, marker, _ = look
    size = 7.0 if len(marks) < MANY_TRIALS else 4.0
    for is_open in (True, False):
        own = [mark for mark in marks if mark.row.feasible is not is_open]
        face = BACKGROUND if is_open else colour
        axes.plot(
            [mark.place for mark in own],
            [mark.value for mark in own],
            linestyle="none",
            marker=marker,
            markersize=size,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=1.4,
            zorder=3,
        )


def draw_best(axes: Axes, marks: Iterable[Mark], best: int | None) -> None:
    """A ring around the best trial, if it is among the marks."""
    for mark in marks:
        if mark.row.trial == best:
            ring = axes.scatter([mark.place], [mark.value], s=190, facecolors="none", edgecolors=INK, zorder=5)
            entry = axes.scatter([], [], s=80, facecolors="none", edgecolors=INK, label=f"best: trial {best}")
            ring.set_linewidth(1.8)
            entry.set_linewidth(1.8)


def explain_open(axes: Axes, marks: Iterable[Mark]) -> None:
    """An entry of the legend for open marks, if there are any."""
    if any(not mark.row.feasible for mark in marks):
        told = "open: a constraint is not kept"
        axes.scatter([], [], s=49, facecolors=BACKGROUND, edgecolors=GREY, linewidths=1.4, label=told)


def finish(axes: Axes, measure: Measure, marks: Sequence[Mark], dense: float | None) -> None:
    """The vertical axis with its label and scale, and the dense model's level."""
    if dense is not None:
        level_line(axes, dense, "dense model")
    axes.set_ylabel(measure.label)
    axes.margins(x=0.06, y=0.1)
    scale_by_range(axes, "y", [*(mark.value for mark in marks), *([] if dense is None else [dense])])
