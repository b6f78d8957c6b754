"""What one objective costs in another: the trials that no other beats, joined by steps, and those that some do."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workers.figures.measures import Measure
from workers.figures.style import (
    COLOURS,
    DENSE_COLOUR,
    finite,
    legend_below,
    level_line,
    scale_by_range,
)
from workers.figures.trials import Mark, draw_best, headed, marked
from workers.searching.table import SearchTable

NUMBER_SIZE = (0.05, 0.05)
"""Width and height that a trial's number takes, of the axes'."""

_FRONTIER, _INFEASIBLE = COLOURS[0], COLOURS[1]


def frontier_figure(table: SearchTable, quality: Measure, cost: Measure) -> Figure | None:
    """Quality against cost; None unless two measured trials differ in cost.

    Trials that no other beats in all of the search's objectives are strong; the steps join those that none beats
    in these two. Between two trials nothing is interpolated: a step says what is had for at most that cost.
    """
    marks = marked(table.rows, {row.trial: cost.value(row) for row in table.rows}, quality)
    if len({mark.place for mark in marks}) < 2:
        return None
    figure = headed(f"{quality.short} against {_lowered(cost.short)}", table)
    axes = figure.subplots()
    feasible = [mark for mark in marks if mark.row.feasible]
    stairs = undominated(feasible, quality, cost)
    strong = {*table.frontier, *(mark.row.trial for mark in stairs)}
    dense = (cost.of_dense(table.rows), quality.of_dense(table.rows))
    _draw_dense(axes, *dense)
    _scatter(axes, [mark for mark in feasible if mark.row.trial not in strong], "beaten by another trial", alpha=0.3)
    _cross_out(axes, [mark for mark in marks if not mark.row.feasible])
    _step(axes, stairs, cost)
    best = [mark for mark in feasible if mark.row.trial in strong]
    _scatter(axes, best, "_frontier")
    if best:
        line = "-" if len(stairs) > 1 else "none"
        axes.plot([], [], color=_FRONTIER, linestyle=line, linewidth=1.5, marker="o", label="frontier: beaten by none")
    draw_best(axes, marks, table.best)
    _finish(axes, quality, cost, marks, dense)
    _number(axes, best, table.best)
    legend_below(figure, [axes])
    return figure


def undominated(marks: Sequence[Mark], quality: Measure, cost: Measure) -> list[Mark]:
    """The trials that no other beats in these two, from left to right."""
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda each: (cost.better(each.place), quality.better(each.value), each.row.trial)):
        if not kept or quality.better(mark.value) < quality.better(kept[-1].value):
            kept.append(mark)
    return sorted(kept, key=lambda each: each.place)


def _scatter(axes: Axes, marks: Sequence[Mark], label: str, alpha: float = 1.0) -> None:
    if marks:
        axes.plot(
            [mark.place for mark in marks],
            [mark.value for mark in marks],
            linestyle="none",
            marker="o",
            markersize=7,
            color=_FRONTIER,
            markeredgecolor="white",
            alpha=alpha,
            label=label,
            zorder=2 if alpha < 1 else 4,
        )


def _cross_out(axes: Axes, marks: Sequence[Mark]) -> None:
    if marks:
        axes.plot(
            [mark.place for mark in marks],
            [mark.value for mark in marks],
            linestyle="none",
            marker="x",
            markersize=7,
            markeredgewidth=1.6,
            color=_INFEASIBLE,
            label="a constraint is not kept",
        )


def _step(axes: Axes, stairs: Sequence[Mark], cost: Measure) -> None:
    if len(stairs) > 1:
        places, values = [mark.place for mark in stairs], [mark.value for mark in stairs]
        axes.step(places, values, where="post" if cost.is_less_better else "pre", color=_FRONTIER, linewidth=1.5)


def _number(axes: Axes, marks: Sequence[Mark], best: int | None) -> None:
    """The trials' numbers beside them, the best one's first; none where it would cover another."""
    axes.autoscale_view()
    to_fractions = axes.transScale + axes.transLimits
    taken: list[tuple[float, float]] = []
    for mark in sorted(marks, key=lambda each: (each.row.trial != best, each.place)):
        x, y = to_fractions.transform((mark.place, mark.value))
        if all(abs(x - other) > NUMBER_SIZE[0] or abs(y - height) > NUMBER_SIZE[1] for other, height in taken):
            taken.append((x, y))
            number = axes.annotate(str(mark.row.trial), (mark.place, mark.value), (8, 7), textcoords="offset points")
            number.set(fontsize=8, color=DENSE_COLOUR)


def _draw_dense(axes: Axes, place: float | None, level: float | None) -> None:
    """The dense model as a star where both are known, and its quality as a line."""
    if level is not None:
        level_line(axes, level, "_dense" if place is not None else "dense model")
    if level is not None and place is not None:
        axes.scatter([place], [level], s=120, marker="*", color=DENSE_COLOUR, label="dense model", zorder=4)


def _finish(
    axes: Axes,
    quality: Measure,
    cost: Measure,
    marks: Sequence[Mark],
    dense: tuple[float | None, float | None],
) -> None:
    axes.set_xlabel(cost.label)
    axes.set_ylabel(quality.label)
    axes.margins(0.1)
    for axis, of_dense, values in (
        ("x", dense[0], [mark.place for mark in marks]),
        ("y", dense[1], [mark.value for mark in marks]),
    ):
        known = [*values, *([of_dense] if of_dense is not None and finite(of_dense) else [])]
        scale_by_range(axes, "x" if axis == "x" else "y", known)


def _lowered(text: str) -> str:
    """The words as they stand within a title."""
    return text[:1].lower() + text[1:]
