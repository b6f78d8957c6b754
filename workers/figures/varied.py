"""The fields that a search varies, as axes of figures, and its trials gathered into lines by what else differs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import JsonValue

from workers.contracts.dimension import Dimension
from workers.contracts.fields import shown
from workers.contracts.search import RATIO
from workers.figures.curves import AXES
from workers.figures.style import COLOURS, LARGE_RANGE, finite
from workers.searching.columns import field_titles
from workers.searching.row import TrialRow, shown_setting
from workers.searching.table import SearchTable

_NAMED = {RATIO: AXES["ratio"], "method.strength": AXES["strength"], "data.samples": AXES["samples"]}
"""Fields that the paper's figures run along have names of their own."""


@dataclass(frozen=True)
class VariedField:
    """A field of the space that differs between trials."""

    path: str
    """Its name in the recipe."""
    title: str
    """Its short name, as in the table."""
    dimension: Dimension
    settings: dict[int, JsonValue] = field(repr=False)
    """Its value by trial."""

    @property
    def short(self) -> str:
        """What titles call it."""
        return _NAMED[self.path][0] if self.path in _NAMED else self.title

    @property
    def label(self) -> str:
        """The axis' label, with the unit where it has one."""
        label = _NAMED[self.path][1].replace(" (logarithmic)", "") if self.path in _NAMED else self.path
        return f"{label} (logarithmic)" if self.is_logarithmic else label

    @cached_property
    def is_numeric(self) -> bool:
        """Whether all that it may be are numbers."""
        return all(is_number(value) for value in self.dimension.probes)

    @cached_property
    def is_logarithmic(self) -> bool:
        """Whether it is drawn by orders of magnitude, or its values are listed that far apart."""
        if self.dimension.loguniform is not None or self.dimension.lograndint is not None:
            return True
        numbers = [float(value) for value in self.dimension.choice or () if isinstance(value, int | float)]
        return self.is_numeric and bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) >= LARGE_RANGE

    @cached_property
    def categories(self) -> dict[str, str]:
        """What it was, in the order of the space, as people read it by `key`."""
        listed = [] if self.is_numeric else self.dimension.probes
        values = {key(value): value for value in (*listed, *self.settings.values())}
        taken = {key(value) for value in self.settings.values()}
        return {each: shown_setting(self.path, value) or "unset" for each, value in values.items() if each in taken}

    def place(self, row: TrialRow) -> float | None:
        """Where the trial stands on the axis, by its number or by its category's; None if it has no place there."""
        value = self.settings[row.trial]
        if not self.is_numeric:
            return float(list(self.categories).index(key(value)))
        if not isinstance(value, int | float) or not is_number(value) or (self.is_logarithmic and value <= 0):
            return None
        return 100.0 * value if self.path == RATIO else float(value)


def key(value: JsonValue) -> str:
    """What tells values apart."""
    return json.dumps(value, sort_keys=True)


def is_number(value: JsonValue) -> bool:
    """Whether it is a finite number; truths are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and finite(value)


def varied_fields(table: SearchTable) -> list[VariedField]:
    """The fields of the space of which the trials have two values or more, in the space's order."""
    titles = field_titles(table.search.space)
    fields = []
    for path, dimension in table.search.space.items():
        settings = {row.trial: row.setting(table.search, path) for row in table.rows}
        if len({key(value) for value in settings.values()}) > 1:
            fields.append(VariedField(path, titles[path], dimension, settings))
    return fields


@dataclass(frozen=True)
class Group:
    """Trials that share a look."""

    label: str
    rows: list[TrialRow]


def grouped(rows: Iterable[TrialRow], by: Sequence[VariedField]) -> list[Group]:
    """The trials by what they share in these fields, in the order of the fields' values; all together by none."""
    groups: dict[tuple[float | str, ...], list[TrialRow]] = defaultdict(list)
    labels = {}
    for row in rows:
        place = tuple(_rank(each, row) for each in by)
        groups[place].append(row)
        labels[place] = ", ".join(_told(each, row) for each in by) or "trials"
    return [Group(labels[place], groups[place]) for place in sorted(groups, key=lambda place: [*map(_sortable, place)])]


def grouping(fields: Sequence[VariedField], along: VariedField | None = None) -> list[VariedField]:
    """The fields that make lines of their own: the ratio, then words, as long as there are colours for all."""
    others = [each for each in fields if along is None or each.path != along.path]
    candidates = [each for each in others if each.path == RATIO] + [each for each in others if not each.is_numeric]
    chosen: list[VariedField] = []
    count = 1
    for each in candidates:
        if count * len(each.categories) <= len(COLOURS):
            chosen.append(each)
            count *= len(each.categories)
    return chosen


def _rank(field: VariedField, row: TrialRow) -> float | str:
    place = field.place(row)
    return key(field.settings[row.trial]) if place is None else place


def _sortable(part: float | str) -> tuple[bool, float, str]:
    return (True, 0.0, part) if isinstance(part, str) else (False, part, "")


def _told(field: VariedField, row: TrialRow) -> str:
    value = field.settings[row.trial]
    if value is None or isinstance(value, dict):
        return f"{field.title} {shown_setting(field.path, value) or 'unset'}"
    return shown(field.title, value)
