"""Figures of one job, from what its training stages recorded: the records of the artifact's `records/` folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workers.contracts.records import PreservedRecord, TrainingRecord
from workers.figures.heat_map import preserved_heat_map
from workers.figures.style import COLOURS, DASHES, GREY, figure_of, finite, legend_below, scale_by_range, styled

MANY_POINTS = 40
"""From so many points on, a batch's noise hides the course: a running mean is drawn over it."""

TERMS = {
    "loss": "loss, as minimized",
    "cross_entropy": "cross-entropy",
    "divergence": "KL divergence to the dense model",
}
"""The curves of the loss figure, all in nats a token."""

OTHERS = {
    "learning_rate": ("Learning rate", "Learning rate (of a basis in radians)"),
    "penalty": ("Penalty on what will go", "λ·Σ of the norms (nats a token)"),
    "stream_distance": ("Distance to the dense model's stream", "Squared distance (share of the square)"),
}
"""Metrics with a figure of their own: its title, and its axis with the unit."""


@dataclass(frozen=True)
class JobRecords:
    """What a job recorded."""

    training: Sequence[TrainingRecord] = ()
    """One a stage that trained, in the order of the stages."""
    preserved: PreservedRecord | None = None
    """What is left of the part that will go, by matrix."""


def job_figures(records: JobRecords) -> dict[str, Figure]:
    """The figures that the records allow, by file name without ending."""
    with styled():
        figures = {"loss": _over_steps(records.training, "Loss while training", "Loss (nats a token)", TERMS)}
        for name, (title, label) in OTHERS.items():
            figures[name] = _over_steps(records.training, title, label, {name: name})
        figures["preserved_ratio"] = _preserved(records)
        figures["preserved_by_matrix"] = preserved_heat_map(records.preserved) if records.preserved else None
    return {name: figure for name, figure in figures.items() if figure is not None}


def _over_steps(training: Sequence[TrainingRecord], title: str, label: str, curves: Mapping[str, str]) -> Figure | None:
    """One panel a stage that recorded any of the metrics; None if no stage did."""
    shown = [record for record in training if any(finite(v) for name in curves for v in record.metrics.get(name, []))]
    if not shown:
        return None
    figure = figure_of(title)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, record in zip(panels, shown, strict=True):
        axes.set_title(f"{record.stage} stage")
        drawn: list[float] = []
        for number, (name, told) in enumerate(curves.items()):
            if name in record.metrics:
                drawn += _curve(axes, record, name, told, number)
        axes.set_xlabel("Optimizer steps")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if "loss" in curves:
            scale_by_range(axes, "y", drawn)
        else:
            axes.set_ylim(bottom=0)
    panels[0].set_ylabel(label)
    if len(curves) > 1:
        legend_below(figure, panels, columns=3)
    return figure


def _curve(axes: Axes, record: TrainingRecord, name: str, told: str, number: int) -> list[float]:
    """Draw a metric over the steps; its finite values."""
    points = [(step, value) for step, value in zip(record.step, record.metrics[name], strict=True) if _known(value)]
    steps, values = [step for step, _ in points], [float(value) for _, value in points if value is not None]
    colour, dashes = COLOURS[number], DASHES[number]
    marker = "o" if len(points) == 1 else ""
    if name in ("learning_rate", "penalty") or len(points) < MANY_POINTS:
        axes.plot(steps, values, color=colour, linestyle=dashes, marker=marker, label=told)
        return values
    axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35, label=f"_{told}, each step")
    axes.plot(steps, running_mean(values), color=colour, linestyle=dashes, label=told)
    axes.set_title(f"{record.stage} stage\n(pale: each step reported, strong: running mean)", fontsize=9)
    return values


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, a tenth of all in all; fewer neighbours near the ends."""
    reach = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - reach, 0)
    high = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return list((sums[high] - sums[low]) / (high - low))


def _preserved(records: JobRecords) -> Figure | None:
    """What is left of the part that will go, in all and as the range over its matrices."""
    whole = next((record for record in records.training if "preserved_ratio" in record.metrics), None)
    if whole is None:
        return None
    figure = figure_of("What is left of the part that will go")
    axes = figure.subplots()
    if records.preserved and records.preserved.parameters:
        steps, columns = records.preserved.steps, records.preserved.parameters.values()
        matrix = np.array([[np.nan if value is None else value for value in column] for column in columns])
        low, middle, high = (100 * np.nanquantile(matrix, share, axis=0) for share in (0.0, 0.5, 1.0))
        axes.fill_between(steps, low, high, color=GREY, alpha=0.2, linewidth=0, label="range over the matrices")
        axes.plot(steps, middle, color=GREY, linestyle=DASHES[1], linewidth=1.3, label="median over the matrices")
    points = [(0, 100.0)] + [  # before the first step all of it is there
        (step, 100 * value)
        for step, value in zip(whole.step, whole.metrics["preserved_ratio"], strict=True)
        if value is not None and _known(value)
    ]
    axes.plot(*zip(*points, strict=True), color=COLOURS[0], label="all matrices")
    axes.set_xlabel("Optimizer steps of the regularize stage")
    axes.set_ylabel("Preserved ratio, Σ|w| now / before (%)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
    return figure


def _known(value: float | None) -> bool:
    return finite(value)
