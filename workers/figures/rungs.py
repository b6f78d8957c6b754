"""What trials reported at the scheduler's rungs, and where it stopped them: a panel for each set that it compares."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workers.contracts.search import RATIO
from workers.figures.style import COLOURS, DASHES, finite, legend_below, scale_by_range, wrapped
from workers.figures.trials import INK, headed
from workers.figures.varied import VariedField, grouped, grouping
from workers.searching.row import TrialRow
from workers.searching.table import SearchTable

PANELS_A_LINE = 3

MOST_TICKS = 5
"""Up to so many rungs have ticks of their own."""

MANY_TRIALS = 30
"""From so many in one panel on, lines are thin and crosses small in all."""


def at_rungs(table: SearchTable, fields: Sequence[VariedField]) -> Figure | None:
    """A line a trial, with a cross where it was stopped; None unless one reported a number."""
    told = [row for row in table.rows if _course(row)]
    if not told:
        return None
    groups = grouped(told, [each for each in grouping(fields) if _is_compared_apart(each)])
    across = min(PANELS_A_LINE, len(groups))
    down = math.ceil(len(groups) / across)
    figure = headed("Held-out loss at the rungs", table, 4.0 if down == 1 else 1.2 + 2.3 * down)
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for panel in panels.flat[len(groups) :]:
        panel.set_visible(False)
    is_crowded = max(len(group.rows) for group in groups) >= MANY_TRIALS
    for panel, group in zip(panels.flat, groups, strict=False):
        for row in group.rows:
            _draw(panel, row, is_best=row.trial == table.best, is_crowded=is_crowded)
        panel.set_title(wrapped(group.label, 60 // across) if len(groups) > 1 else _silent(table.rows, told))
        _dress(panel, group.rows, [value for row in told for _, value in _course(row)])
    if len(groups) > 1 and (silent := _silent(table.rows, told)):
        figure.supxlabel(silent, fontsize=9)
    for place in range(down):
        panels[place, 0].set_ylabel("Loss with the chosen channels\nmasked (nats a token)")
    legend_below(figure, list(panels.flat))
    return figure


def _is_compared_apart(field: VariedField) -> bool:
    """Whether the scheduler compares trials of equal values alone."""
    return field.path == RATIO or field.path.partition(".")[0] in ("model", "data")


def _draw(axes: Axes, row: TrialRow, *, is_best: bool, is_crowded: bool) -> None:
    places, values = zip(*_course(row), strict=True)
    stopped = row.reports[-1].decision == "stop"
    label = f"best: trial {row.trial}" if is_best else "stopped" if stopped else "went on"
    colour, dashes = (INK, "-") if is_best else (COLOURS[1], DASHES[1]) if stopped else (COLOURS[0], "-")
    (line,) = axes.plot(places, values, color=colour, linestyle=dashes, label=label, zorder=5 if is_best else 3)
    line.set(marker="o", markersize=3 if is_crowded else 4.5, linewidth=3 if is_best else 0.7 if is_crowded else 1.4)
    if stopped:
        line.set(marker="X", markevery=[len(places) - 1], markersize=5 if is_crowded else 8)


def _dress(axes: Axes, rows: Sequence[TrialRow], values: Sequence[float]) -> None:
    rungs = sorted({place for row in rows for place, _ in _course(row)})
    if len(rungs) <= MOST_TICKS:
        axes.set_xticks(rungs, [f"{rung:.3g}" for rung in rungs])
    axes.set_xlabel("Training steps done (%)")
    axes.margins(0.12)
    scale_by_range(axes, "y", values)


def _silent(rows: Sequence[TrialRow], told: Sequence[TrialRow]) -> str:
    count = sum(bool(row.reports) and row not in told for row in rows)
    return f"{count} more reported no finite number" if count else ""


def _course(row: TrialRow) -> list[tuple[float, float]]:
    """Shares of the steps in per cent, and the finite values reported there."""
    told = ((report.fraction, report.value) for report in row.reports)
    return [
        (100 * fraction, value)
        for fraction, value in told
        if fraction is not None and value is not None and finite(value)
    ]
