"""Perplexity along what was varied: the ratio (the paper's Figure 4), λ (its Table 6), the amount of data (Table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workers.figures.rows import ComparedRow
from workers.figures.scatter import Axis
from workers.figures.series import SETTINGS, Line, lines_along, method_of
from workers.figures.style import figure_of, finite, legend_below, level_line, logarithmic, look, scale_by_range

AXES = {
    "ratio": ("the ratio", "Ratio, share of the width or of the layers that goes (%)"),
    "strength": ("the weight of the penalty", "λ, weight of the penalty (logarithmic)"),
    "samples": ("the amount of data", "Training sequences"),
}
"""What a title calls the setting, and its axis with the unit."""


def curve(rows: Sequence[ComparedRow], setting: str, quality: Axis, title: str) -> Figure | None:
    """One line a method, means over what else varied with whiskers from least to most; None where nothing varied."""
    rows = [
        row for row in rows if setting != "strength" or row.strength != 0
    ]  # which a logarithmic axis has no place for
    asked = [row for row in rows if not row.is_control]
    if not any(len(line.points) > 1 for line in lines_along(asked, setting, quality.value)):
        return None
    lines = lines_along(rows, setting, quality.value)
    short, label = AXES[setting]
    figure = figure_of(f"{quality.label.partition(' (')[0]} by {short}{title}")
    axes = figure.subplots()
    for number, line in enumerate(lines):
        _draw(axes, line, number, 100.0 if setting == "ratio" else 1.0)
    levels = _levels(rows, setting, quality)
    for number, (told, level) in enumerate(levels.items(), start=1):
        level_line(axes, level, told, 0 if told == "dense" else number)
    axes.set_xlabel(label)
    axes.set_ylabel(quality.label)
    places = [float(point.place) for line in lines for point in line.points]
    if setting == "strength":
        logarithmic(axes, "x", max(places) / min(places))
    elif setting == "samples":
        scale_by_range(axes, "x", places)
    scale_by_range(axes, "y", [*levels.values(), *(point.mean for line in lines for point in line.points)])
    if any(point.count > 1 for line in lines for point in line.points):
        axes.set_title("means; whiskers from the least to the most", fontsize=9)
    legend_below(figure, [axes])
    return figure


def _draw(axes: Axes, line: Line, number: int, factor: float) -> None:
    colour, marker, dashes = look(number)
    spread = [[point.mean - point.least for point in line.points], [point.most - point.mean for point in line.points]]
    axes.errorbar(
        [factor * float(point.place) for point in line.points],
        [point.mean for point in line.points],
        yerr=spread if any(point.count > 1 for point in line.points) else None,
        color=colour,
        marker=marker,
        linestyle=dashes,
        capsize=3,
        elinewidth=1.2,
        label=line.label,
    )


def _levels(rows: Sequence[ComparedRow], setting: str, quality: Axis) -> dict[str, float]:
    """What has no place on the axis, as means by name: the dense model, and whatever lacks the setting."""
    found: dict[str, list[float]] = {"dense": []} if any(row.is_dense for row in rows) else {}
    for row in rows:
        value = quality.value(row)
        if value is not None and finite(value) and (row.is_dense or SETTINGS[setting](row) is None):
            found.setdefault("dense" if row.is_dense else method_of(row), []).append(value)
    return {name: fmean(values) for name, values in found.items() if values}
