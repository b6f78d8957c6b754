"""Quality against cost: one mark a model, one colour and shape a method, the dense model as the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from workers.figures.rows import ComparedRow
from workers.figures.series import method_of
from workers.figures.style import (
    DENSE_COLOUR,
    figure_of,
    finite,
    legend_below,
    level_line,
    look,
    scale_by_range,
)

Value = Callable[[ComparedRow], float | None]


@dataclass(frozen=True)
class Axis:
    """What runs along an axis."""

    label: str
    """With its unit."""
    value: Value
    error: Value = lambda row: None
    """Its standard error, in the same unit."""
    short: str = ""
    """What a title calls it."""


def by_parameters(rows: Sequence[ComparedRow]) -> Axis:
    """True parameters, in the unit that suits the largest model."""
    unit, size = count_unit(max((row.parameters or 0 for row in rows), default=0))
    return Axis(
        f"Parameters of the exported model ({unit})",
        lambda row: None if row.parameters is None else row.parameters / size,
        short="true parameters",
    )


def by_throughput() -> Axis:
    """Generation."""
    return Axis("Generation (tokens/s, further right is faster)", lambda row: row.tokens_per_second, short="throughput")


def by_latency(rows: Sequence[ComparedRow]) -> Axis:
    """One prompt, in seconds or in milliseconds."""
    unit, size = time_unit(max((row.prompt_seconds or 0.0 for row in rows), default=0.0))
    return Axis(
        f"Time of one prompt ({unit}, further left is faster)",
        lambda row: None if row.prompt_seconds is None else row.prompt_seconds / size,
        short="latency",
    )


def count_unit(most: float) -> tuple[str, float]:
    """A word for the unit that suits a number of parameters, and its size."""
    return ("billions", 1e9) if most >= 1e9 else ("millions", 1e6) if most >= 1e6 else ("thousands", 1e3)


def time_unit(longest: float) -> tuple[str, float]:
    """The unit that suits the time of a piece of work, and its seconds."""
    return ("s", 1.0) if longest >= 1 else ("ms", 1e-3)


def scatter(rows: Sequence[ComparedRow], cost: Axis, quality: Axis, title: str) -> Figure | None:
    """None if fewer than two models have both figures."""
    shown = [row for row in rows if finite(cost.value(row)) and finite(quality.value(row))]
    places = {id(row): (float(cost.value(row) or 0.0), float(quality.value(row) or 0.0)) for row in shown}
    if len(shown) < 2:
        return None
    figure = figure_of(title)
    axes = figure.subplots()
    methods = list(dict.fromkeys(method_of(row) for row in rows if not row.is_dense))
    dense = [row for row in shown if row.is_dense]
    if dense:
        place, level = places[id(dense[0])]
        level_line(axes, level, "")
        axes.scatter([place], [level], s=120, marker="*", color=DENSE_COLOUR, label="dense", zorder=4)
    for number, method in enumerate(methods):
        own = [row for row in shown if method_of(row) == method and not row.is_dense]
        if not own:
            continue
        colour, marker, _ = look(number)
        filled = colour if not all(row.is_control for row in own) else "white"
        axes.errorbar(
            [places[id(row)][0] for row in own],
            [places[id(row)][1] for row in own],
            yerr=[quality.error(row) or 0.0 for row in own] if any(quality.error(row) for row in own) else None,
            linestyle="none",
            marker=marker,
            markersize=8,
            color=colour,
            markerfacecolor=filled,
            markeredgewidth=1.5,
            capsize=3,
            elinewidth=1.2,
            label=method,
            zorder=3,
        )
    axes.set_xlabel(cost.label)
    axes.set_ylabel(quality.label)
    axes.margins(0.08)
    scale_by_range(axes, "x", [place for place, _ in places.values()])
    scale_by_range(axes, "y", [level for _, level in places.values()])
    legend_below(figure, [axes])
    return figure
