"""Which trials end early: decided at each rung from what is recorded at it, and from nothing else.

Ray Tune's own schedulers keep their rungs in memory and lose them with the process; here the rungs are the recorded
reports. `asha` decides as Tune's `AsyncHyperBandScheduler` with one bracket does (tested against it).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from workers.contracts.fields import holds
from workers.contracts.search import Asha, Median, Point
from workers.contracts.trials import Decision, TrialRecord

_APART = ("model", "data", "method.kind", "method.ratio", "method.round_to", "method.export", "method.elastic_ratios")
"""Fields whose values set trials apart: losses of two widths, two models or two texts say nothing of each other."""


_FAR = 1e30
"""Stands for a loss that is no finite number: infinity itself would make quantiles undefined."""


def decide(
    settings: Asha | Median, trial: TrialRecord, rung: int, value: float | None, others: Sequence[TrialRecord]
) -> Decision:
    """Whether a trial that comes to a rung goes on.

    Args:
        trial: as recorded before this rung.
        value: its loss there; None is no finite number, which ends it.
        others: all other trials of the search, of any kind.
    """
    if value is None or not math.isfinite(value):
        return "stop"
    alike = [other for other in others if _kind(other.point) == _kind(trial.point)]
    if isinstance(settings, Asha):
        return _asha(settings, rung, value, alike)
    return _median(settings, trial, rung, value, alike)


def _asha(settings: Asha, rung: int, value: float, others: Sequence[TrialRecord]) -> Decision:
    """Li et al., 2020: go on if among the best 1/η of all that have come to the rung, this one included.

    The cut-off is the 1/η quantile of those there before, interpolated, as Tune takes it; the first always goes on.
    """
    there = [loss for other in others for at, loss in _losses(other) if at == rung]
    if not there:
        return "go_on"
    cutoff = float(np.nanpercentile(there, 100 / settings.reduction))
    return "stop" if value > cutoff else "go_on"


def _median(settings: Median, trial: TrialRecord, rung: int, value: float, others: Sequence[TrialRecord]) -> Decision:
    """Golovin et al., 2017, §3.2.2: stop if the best so far is worse than the median of the others' running means."""
    means = []
    for other in others:
        losses = [loss for at, loss in _losses(other) if at <= rung]
        if any(at == rung for at, _ in _losses(other)):
            means.append(fmean(losses))
    if len(means) < settings.least_trials:
        return "go_on"
    best = min([value, *(loss for _, loss in _losses(trial))])
    return "stop" if best > median(means) else "go_on"


def _losses(trial: TrialRecord) -> list[tuple[int, float]]:
    return [(report.rung, _FAR if report.value is None else report.value) for report in trial.reports]


def _kind(point: Point) -> str:
    """What must be equal for losses to be compared, in a form that can be."""
    apart = {field: value for field, value in point.items() if _sets_apart(field)}
    if isinstance(method := point.get("method"), dict):
        apart["method"] = {name: method.get(name) for name in ("kind", "ratio", "round_to")}
    return json.dumps(apart, sort_keys=True)


def _sets_apart(field: str) -> bool:
    return field != "method" and any(holds(section, field) for section in _APART)
