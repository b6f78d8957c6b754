"""A search as parallel coordinates: a line a trial through its settings and what came of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from workers.figures.measures import Measure
from workers.figures.style import GREY, LARGE_RANGE, legend_below, wrapped
from workers.figures.trials import INK, headed
from workers.figures.varied import VariedField
from workers.searching.row import TrialRow
from workers.searching.table import SearchTable
from workers.written import plain

COLOURS = "cividis"
"""Even in lightness from dark to light, and made for colour-blind readers."""

ENOUGH_FOR_TENTHS = 10
"""Trials from which on the worst tenth shares the last colour."""

MOST_LEVEL_NAMES = 6
"""Names of more axes are written aslant."""

MOST_AXES = 9
"""More do not fit beside each other; fields further down in the space are left out."""


_LINE = 0.05
"""Of the axes' height: values that are written nearer to each other would overlap."""

_WITHOUT_FIGURE = "no figure: stopped, failed or unfinished"


@dataclass(frozen=True)
class _Coordinate:
    """One of the upright axes."""

    name: str
    values: dict[int, float]
    """By trial."""
    names: list[str]
    """Of categories, by number; none for numbers."""
    is_logarithmic: bool
    unit: str = ""

    def height(self, trial: int) -> float:
        """Where the trial's value stands, from 0 to 1; not a number for a trial without one."""
        value = self.values.get(trial)
        return math.nan if value is None else self._scaled(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and what is written there: each category, or the least and the most."""
        if self.names:
            return [(self._scaled(place), name) for place, name in enumerate(self.names)]
        return [(self._scaled(value), _brief(value)) for value in dict.fromkeys(self._ends())]

    def told(self, trial: int) -> list[tuple[float, str]]:
        """The trial's own value and where it stands; nothing where a category or no value does."""
        value = self.values.get(trial)
        return [] if self.names or value is None else [(self._scaled(value), _brief(value))]

    def _scaled(self, value: float) -> float:
        low, high = self._ends()
        if self.is_logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low) if high > low else 0.5

    def _ends(self) -> tuple[float, float]:
        if self.names:
            return 0.0, len(self.names) - 1.0
        return min(self.values.values()), max(self.values.values())


def parallel_coordinates(
    table: SearchTable, measures: Sequence[Measure], fields: Sequence[VariedField]
) -> Figure | None:
    """Fields to the left, objectives to the right, coloured by the first; None unless two trials were measured."""
    colouring = measures[0]
    levels = {row.trial: value for row in table.rows if (value := colouring.value(row)) is not None}
    if len(levels) < 2 or not fields:
        return None
    shown = fields[: max(1, MOST_AXES - len(measures))]
    coordinates = [_of_field(each, table.rows) for each in shown]
    coordinates += [_of_measure(each, table.rows) for each in measures]
    coordinates = [each for each in coordinates if each.values]
    is_crowded = len(coordinates) > MOST_LEVEL_NAMES
    figure = headed("Settings and what came of them", table, 4.8 if is_crowded else 4.2)
    axes = figure.subplots()
    norm, beyond = _norm(list(levels.values()), colouring)
    scale = ScalarMappable(norm, colormaps[COLOURS])
    for row in _in_drawing_order(table, levels):
        _draw(axes, row, coordinates, scale, levels.get(row.trial), is_best=row.trial == table.best)
    _dress_axes(axes, coordinates, table.best)
    if len(shown) < len(fields):
        axes.set_title(f"the first {len(shown)} of {len(fields)} fields", fontsize=9, pad=16)
    bar = figure.colorbar(scale, ax=axes, pad=0.02, fraction=0.05, extend=beyond)
    bar.set_label(colouring.label)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    legend_below(figure, [axes])
    return figure


def _of_field(field: VariedField, rows: Sequence[TrialRow]) -> _Coordinate:
    values = {row.trial: place for row in rows if (place := field.place(row)) is not None}
    names = [] if field.is_numeric else list(field.categories.values())
    unit = " (%)" if field.label.endswith("(%)") else ""
    return _Coordinate(f"{field.title}{unit}", values, names, field.is_logarithmic)


def _of_measure(measure: Measure, rows: Sequence[TrialRow]) -> _Coordinate:
    values = {row.trial: value for row in rows if (value := measure.value(row)) is not None}
    unit = f" ({measure.unit})" if measure.unit else ""
    arrow = "↓" if measure.is_less_better else "↑"
    return _Coordinate(f"{measure.short}{unit} {arrow}", values, [], _is_wide(list(values.values())))


def _is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LARGE_RANGE


def _norm(levels: Sequence[float], measure: Measure) -> tuple[Normalize, str]:
    """From the best on to the worst but a tenth, so that few bad trials do not take all the colours."""
    least, most = min(levels), max(levels)
    beyond = "neither"
    if len(levels) >= ENOUGH_FOR_TENTHS:
        low, high = (float(np.quantile(levels, share)) for share in (0.1, 0.9))
        least, most, beyond = (least, high, "max") if measure.is_less_better else (low, most, "min")
    return (LogNorm if _is_wide([least, most]) else Normalize)(least, most), beyond


def _in_drawing_order(table: SearchTable, levels: dict[int, float]) -> list[TrialRow]:
    """What is to be seen best comes last: trials without a figure first, then the worst, the best at the end."""
    ranked = [row for row in reversed(table.ordered) if row.trial in levels]
    ranked.sort(key=lambda row: row.trial == table.best)
    return [*(row for row in table.rows if row.trial not in levels), *ranked]


def _draw(
    axes: Axes,
    row: TrialRow,
    coordinates: Sequence[_Coordinate],
    scale: ScalarMappable,
    level: float | None,
    *,
    is_best: bool,
) -> None:
    heights = [each.height(row.trial) for each in coordinates]
    places = range(len(coordinates))
    if level is None:
        dots = (0, (1.2, 1.6))
        axes.plot(places, heights, color=GREY, linestyle=dots, linewidth=0.9, label=_WITHOUT_FIGURE, zorder=1)
        return
    if is_best:
        (line,) = axes.plot(places, heights, color=INK, linewidth=3, label=f"best: trial {row.trial}", zorder=6)
        line.set(marker="o", markersize=6.5, path_effects=[withStroke(linewidth=5.5, foreground="white")])
        return
    colour = scale.to_rgba(np.array([level]))[0]
    axes.plot(places, heights, color=colour, linewidth=1.3, alpha=0.85, zorder=3)


def _dress_axes(axes: Axes, coordinates: Sequence[_Coordinate], best: int | None) -> None:
    """An upright line a coordinate with its name below, the ends' values beside it, and the best trial's."""
    axes.set_xlim(-0.15, len(coordinates) - 0.6)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    is_crowded = len(coordinates) > MOST_LEVEL_NAMES
    width = max(7, 60 // len(coordinates))
    names = [each.name if is_crowded else wrapped(each.name, width) for each in coordinates]
    axes.set_xticks(range(len(coordinates)), names, fontsize=8)
    if is_crowded:
        for label in axes.get_xticklabels():
            label.set(rotation=25, horizontalalignment="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    for place, coordinate in enumerate(coordinates):
        axes.axvline(place, color="#4d4d4d", linewidth=1, zorder=2)
        own = [] if best is None else coordinate.told(best)
        for height, text in coordinate.ticks():
            if all(abs(height - taken) > _LINE for taken, _ in own):
                _write(axes, place, height, wrapped(text, width) if coordinate.names else text)
        for height, text in own:
            _write(axes, place, height, text, weight="bold")


def _write(axes: Axes, place: float, height: float, text: str, weight: str = "normal") -> None:
    """A value beside its upright line, readable across those of the trials."""
    written = axes.annotate(text, (place, height), (6, 0), textcoords="offset points")
    written.set(fontsize=8, fontweight=weight, verticalalignment="center", zorder=8)
    written.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _brief(value: float) -> str:
    """Three digits, and no fewer than stand before the point."""
    return plain(float(f"{value:.3g}")) if abs(value) < 1000 else f"{value:,.0f}"
