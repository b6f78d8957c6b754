"""A search as it went: what each trial came to in the order of their ends, over time, and at the scheduler's rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workers.figures.measures import Measure
from workers.figures.style import COLOURS, legend_below, look
from workers.figures.trials import (
    Mark,
    draw_best,
    draw_marks,
    explain_open,
    finish,
    marked,
    panels,
    unmeasured,
)
from workers.searching.table import SearchTable

MOST_RUNGS = 10
"""Up to so many have ticks of their own."""


def by_ending(table: SearchTable, measure: Measure) -> Figure | None:
    """The trials in the order in which they ended; None unless one was measured."""
    ended = [row for row in table.rows if row.status in ("succeeded", "failed", "stopped")]
    ended.sort(key=lambda row: (row.ended_as or float("inf"), row.ended_seconds or 0.0, row.trial))
    places = {row.trial: float(place) for place, row in enumerate(ended, start=1)}
    return _course(table, measure, places, "trial by trial", "Trials in the order of their ends", is_whole=True)


def over_time(table: SearchTable, measure: Measure) -> Figure | None:
    """The trials at the times at which they ended; None unless one was measured and its time is known."""
    longest = max((row.ended_seconds or 0.0 for row in table.rows), default=0.0)
    unit, size = ("hours", 3600.0) if longest >= 7200 else ("minutes", 60.0) if longest >= 120 else ("seconds", 1.0)
    places = {row.trial: row.ended_seconds / size for row in table.rows if row.ended_seconds is not None}
    return _course(table, measure, places, "over time", f"Time since the search was started ({unit})")


def _course(
    table: SearchTable, measure: Measure, places: Mapping[int, float], how: str, label: str, *, is_whole: bool = False
) -> Figure | None:
    marks = marked(table.rows, places, measure)
    if not marks:
        return None
    figure, axes = panels(f"{measure.short} {how}", table, unmeasured(table.rows, places, measure))
    draw_marks(axes.main, marks, look(0))
    steps = best_so_far([mark for mark in marks if mark.row.feasible], measure)
    if steps:
        end = max(places.values())
        ends = [*(place for place, _ in steps), max(end, steps[-1][0])]
        values = [*(value for _, value in steps), steps[-1][1]]
        axes.main.step(ends, values, where="post", color=COLOURS[1], linestyle=(0, (5, 1.5)), label="best so far")
    axes.main.plot([], [], linestyle="none", marker="o", color=COLOURS[0], label="one trial")
    draw_best(axes.main, marks, table.best)
    explain_open(axes.main, marks)
    finish(axes.main, measure, marks, measure.of_dense(table.rows))
    axes.lowest.set_xlabel(label)
    if is_whole:
        axes.lowest.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    else:
        axes.lowest.set_xlim(left=0)
    legend_below(figure, [axes.main])
    return figure


def best_so_far(marks: Sequence[Mark], measure: Measure) -> list[tuple[float, float]]:
    """Where the best value changes, from left to right, and to what."""
    steps: list[tuple[float, float]] = []
    for mark in sorted(marks, key=lambda each: (each.place, measure.better(each.value))):
        if not steps or measure.better(mark.value) < measure.better(steps[-1][1]):
            steps.append((mark.place, mark.value))
    return steps
