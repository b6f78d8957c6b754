"""A line of a search's table: one trial and what became of it, from the record or from the wire. Imports no torch.

    TrialRow(trial, status, point, values, dense, feasible, excesses, parameters, parameters_fraction, reports,
             seconds, gpu_seconds, avoided_seconds, avoided_by_stage, ended_as, created_seconds, ended_seconds, message)
    rows_of(search: Search, record: SearchRecord) -> list[TrialRow]
    row_of_wire(search: Search, trial: Mapping[str, Any], since: datetime | str | None = None) -> TrialRow

`trial` of `row_of_wire` is the REST interface's Trial object in plain form; `since` is when its search was started.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator

from workers.comparison.row import counted_parameters, final_of, parameters_fraction
from workers.contracts.base import Contract
from workers.contracts.fields import shown
from workers.contracts.metrics import SUBJECTS, Objective
from workers.contracts.results import Results
from workers.contracts.search import Point, Search
from workers.contracts.trials import Decision, SearchRecord, TrialFinished, TrialNumber, TrialRecord
from workers.written import plain

TrialStatus = Literal["waiting", "running", "succeeded", "failed", "stopped"]
"""Where a trial stands; `waiting` is begun by a search that does not run now."""


class RungReport(Contract):
    """What a trial told at a rung, and what was decided."""

    rung: int
    """Which of the scheduler's rungs, from 0."""
    fraction: float | None = None
    """Of the trial's training steps; null if the search has no such rung."""
    value: float | None
    """Loss on held-out text with the chosen channels masked; null is no finite number."""
    decision: Decision


class TrialRow(Contract):
    """What became of one trial."""

    trial: TrialNumber
    status: TrialStatus
    point: Point
    """What it changes in the base recipe."""
    values: dict[str, float | None] = {}
    """By the objectives' metrics; null is no finite number. Empty unless it succeeded."""
    dense: dict[str, float | None] = {}
    """The same figures of the dense model and its `parameters`, where they were measured."""
    feasible: bool | None = None
    """Whether every objective was measured and every constraint is kept; null unless it succeeded."""
    excesses: dict[str, float | None] = {}
    """By constraint in words, how far its bound is passed; 0 or below keeps it, null was not measured."""
    parameters: int | None = None
    """Parameters of the final model."""
    parameters_fraction: float | None = None
    """Parameters left, of the dense model's, without rows and columns of zeros."""
    reports: list[RungReport] = []
    """In the order of the rungs."""
    seconds: float | None = None
    """It was under way for so long, all tries together; null while it is."""
    gpu_seconds: float | None = None
    """`seconds` times its GPUs."""
    avoided_seconds: float | None = None
    """What the stages cost that it found instead of computing them."""
    avoided_by_stage: dict[str, float] = {}
    """The same by stage, such as `regularize` or `evaluate dense`."""
    ended_as: int | None = None
    """Its place among the trials that have ended, from 1."""
    created_seconds: float | None = None
    """When it was proposed, since the start of the search; null where no times are known."""
    ended_seconds: float | None = None
    """When it ended, since the start of the search."""
    message: str | None = Field(default=None)
    """What went wrong, or why it was stopped."""

    @field_validator("values", "dense", "excesses")
    @classmethod
    def _finite(cls, figures: dict[str, float | None]) -> dict[str, float | None]:
        return {name: _number(value) for name, value in figures.items()}

    def setting(self, search: Search, field: str) -> JsonValue:
        """A field of the trial's recipe: its own value, or the base's; null where the base leaves it out too."""
        if field in self.point:
            return self.point[field]
        place: Any = search.base
        for part in field.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        return place

    def competing(self, search: Search) -> TrialFinished | None:
        """The trial as it is ranked; None unless it is feasible."""
        if not self.feasible:
            return None
        values = [self.values.get(objective.metric) for objective in search.objectives]
        return TrialFinished(trial=self.trial, status="succeeded", values=values)


def rows_of(search: Search, record: SearchRecord) -> list[TrialRow]:
    """A row for each trial that was proposed, by number. When trials began and ended is not in the record."""
    return [_row_of(search, trial) for trial in record.trials]


def row_of_wire(search: Search, trial: Mapping[str, Any], since: datetime | str | None = None) -> TrialRow:
    """A row from a Trial object of the REST interface, in plain form. What a newer server adds is passed over.

    Args:
        since: when the search was started, for the times.
    Raises:
        ValidationError: it is no Trial object.
    """
    results = _results(trial.get("results"))
    reports = [{name: report.get(name) for name in RungReport.model_fields} for report in trial.get("reports") or ()]
    times = {f"{name}_seconds": _between(since, trial.get(f"{name}_at")) for name in ("created", "ended")}
    kept = ("trial", "status", "point", "feasible", "seconds", "gpu_seconds", "avoided_seconds", "ended_as")
    return TrialRow.model_validate(
        {
            **{name: trial.get(name) for name in kept},
            **times,
            **_measured(search, results),
            "values": trial.get("values") or {},
            "avoided_by_stage": trial.get("avoided_by_stage") or {},
            "reports": reports,
            "message": (trial.get("error") or {}).get("message") or trial.get("reason"),
        }
    )


def shown_setting(field: str, value: JsonValue) -> str:
    """A field's value as a table shows it: words without a path's folders, sections by what they say, few digits."""
    if value is None:
        return ""
    if isinstance(value, dict):
        words = " ".join(each for each in value.values() if isinstance(each, str))
        others = [shown(name, each) for name, each in value.items() if not isinstance(each, str | dict)]
        return ", ".join(filter(None, [words, *others])) or json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}" if 1e-3 <= abs(value) < 1000 else plain(value)
    return shown(field, value).removeprefix(f"{field.rpartition('.')[2]} ")


def without_subject(metric: str) -> str:
    """A metric's name without the model that it is of, an alias written out: `perplexity.ptb`, `latency.prompt`."""
    first, _, rest = metric.partition(".")
    name = rest if first in SUBJECTS else metric
    return f"{name}.prompt" if name in ("latency", "memory") else name


def _row_of(search: Search, record: TrialRecord) -> TrialRow:
    finished = record.finished
    rungs: Sequence[float] = search.scheduler.rungs if search.scheduler else ()
    reports = [
        RungReport(
            rung=report.rung,
            fraction=rungs[report.rung] if report.rung < len(rungs) else None,
            value=_number(report.value),
            decision=report.decision,
        )
        for report in record.reports
    ]
    if finished is None:
        return TrialRow(trial=record.trial, status="running", point=record.point, reports=reports)
    measured = finished.status == "succeeded" and finished.values is not None
    names = [objective.metric for objective in search.objectives]
    return TrialRow(
        trial=record.trial,
        status=finished.status,
        point=record.point,
        reports=reports,
        values=dict(zip(names, finished.values or [], strict=False)) if measured else {},
        feasible=finished.is_feasible if finished.status == "succeeded" else None,
        seconds=finished.seconds,
        gpu_seconds=finished.gpu_seconds,
        avoided_seconds=finished.avoided_seconds,
        avoided_by_stage=finished.avoided_by_stage,
        ended_as=record.ended_as,
        message=finished.message,
        **_measured(search, finished.results),
    )


def _measured(search: Search, results: Results | None) -> dict[str, Any]:
    """What a row tells of its results besides the objectives."""
    if results is None:
        return {}
    final = final_of(results)
    metrics = ["parameters", *(objective.metric for objective in search.objectives)]
    dense = {metric: Objective(metric=f"dense.{without_subject(metric)}") for metric in metrics}
    return {
        "dense": {name: value for name, each in dense.items() if (value := each.value(results)) is not None},
        "excesses": {each.told(): each.excess(results) for each in search.constraints} if final else {},
        "parameters": final.parameters if final else None,
        "parameters_fraction": parameters_fraction(results) if counted_parameters(final) is not None else None,
    }


def _results(plain: Any) -> Results | None:
    """None for what another version wrote and this one cannot read; the values beside it stand for themselves."""
    try:
        return Results.model_validate(plain) if plain is not None else None
    except ValidationError:
        return None


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _between(start: datetime | str | None, end: datetime | str | None) -> float | None:
    """Seconds from one time to another, none below 0."""
    if start is None or end is None:
        return None
    first, last = (datetime.fromisoformat(each) if isinstance(each, str) else each for each in (start, end))
    known = [each if each.tzinfo else each.replace(tzinfo=UTC) for each in (first, last)]
    return max(0.0, (known[1] - known[0]).total_seconds())
