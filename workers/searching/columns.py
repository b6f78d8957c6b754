"""The columns of a search's table: fields of the space, objectives, constraints, size and cost. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from workers.contracts.metrics import Objective
from workers.contracts.search import Search
from workers.searching.row import TrialRow, shown_setting, without_subject
from workers.written import Form, Value, score_form, written


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    """What programs call it."""
    title: str
    form: Form
    value: Callable[[TrialRow], Value]
    shown: Callable[[TrialRow], str] | None = None
    """What people read; by default the value in the column's form."""
    is_brief: bool = True
    """Whether people see it; programs see every column."""

    def cell(self, row: TrialRow) -> str:
        return self.shown(row) if self.shown else written(self.value(row), self.form)


def columns_of(search: Search, rows: Sequence[TrialRow]) -> list[Column]:
    """What tells a trial's settings, figures and cost; after those that say which trial it is."""
    columns = [
        *(_of_field(search, field, title) for field, title in field_titles(search.space).items()),
        *(_of_objective(each, rows) for each in search.objectives),
        Column("feasible", "constraints kept", "plain", _kept, is_brief=bool(search.constraints)),
        *(_of_excess(each.told()) for each in search.constraints),
    ]
    if "parameters" not in {column.name for column in columns}:
        columns.append(Column("parameters", "parameters", "count", lambda row: row.parameters))
    return [*columns, *_COSTS]


_COSTS = (
    Column("parameters_fraction", "% of dense", "percent", lambda row: row.parameters_fraction),
    Column("seconds", "seconds", "seconds", lambda row: row.seconds),
    Column("avoided_seconds", "avoided, s", "seconds", lambda row: row.avoided_seconds),
    Column("gpu_seconds", "", "seconds", lambda row: row.gpu_seconds, is_brief=False),
    Column("ended_as", "", "plain", lambda row: row.ended_as, is_brief=False),
    Column("created_seconds", "", "seconds", lambda row: row.created_seconds, is_brief=False),
    Column("ended_seconds", "", "seconds", lambda row: row.ended_seconds, is_brief=False),
    Column("message", "", "text", lambda row: row.message, is_brief=False),
)


def field_titles(fields: Iterable[str]) -> dict[str, str]:
    """A short name for each field: its last part, with as many before it as tell it from the others."""
    fields = list(fields)
    titles: dict[str, str] = {}
    for field in fields:
        parts = field.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in fields if other != field]
        titles[field] = next((end for end in endings if not any(o.endswith(f".{end}") for o in others)), field)
    return titles


def _of_field(search: Search, field: str, title: str) -> Column:
    def value(row: TrialRow) -> Value:
        found = row.setting(search, field)
        if isinstance(found, bool | list | dict):
            return json.dumps(found)
        return found

    return Column(field, title, "plain", value, lambda row: shown_setting(field, row.setting(search, field)))


def _of_objective(objective: Objective, rows: Sequence[TrialRow]) -> Column:
    """A column of an objective's figures, an arrow pointing to the better side."""
    name, metric = without_subject(objective.metric), objective.metric
    form = _form_of(name, [row.values.get(metric) for row in rows])

    def value(row: TrialRow) -> Value:
        found = row.values.get(metric)
        return int(found) if found is not None and form == "count" else found

    def shown(row: TrialRow) -> str:
        missing = "not finite" if row.status == "succeeded" else ""
        return written(value(row), form) or missing

    return Column(metric, f"{metric} {'↓' if objective.mode == 'min' else '↑'}", form, value, shown)


def _form_of(name: str, values: Sequence[float | None]) -> Form:
    kind = name.partition(".")[0]
    if kind == "tasks":
        return score_form(values)
    return "perplexity" if kind == "perplexity" else "figure" if kind == "latency" else "count"


def _of_excess(told: str) -> Column:
    return Column(f"excess: {told}", "", "figure", lambda row: row.excesses.get(told), is_brief=False)


def _kept(row: TrialRow) -> str | None:
    return None if row.feasible is None else "yes" if row.feasible else "no"


def standing_of(row: TrialRow) -> str:
    """The status, and how far a trial came that was stopped."""
    last = row.reports[-1] if row.reports else None
    if row.status == "stopped" and last and last.decision == "stop" and last.fraction is not None:
        return f"stopped at {last.fraction:.0%}"
    return row.status
