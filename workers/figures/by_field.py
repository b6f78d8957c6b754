"""An objective along a field of a search: a curve over numbers (the paper's Table 6), points over words (Table 5)."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workers.figures.measures import Measure
from workers.figures.style import legend_below, logarithmic, look, wrapped
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
from workers.figures.varied import Group, VariedField, grouped, grouping, key
from workers.searching.table import SearchTable

MOST_PLACES = 12
"""Up to so many numbers, trials that share one stand side by side, look by look."""

_WORDS_WIDTH, _NUMBERS_WIDTH = 0.7, 0.35
"""What they take of the distance to the next word or number."""


def by_field(table: SearchTable, measure: Measure, field: VariedField, fields: Sequence[VariedField]) -> Figure | None:
    """A mark a trial, a look for each ratio and word; None unless two values of the field were measured.

    Trials of one look are joined through their means where nothing else tells them apart.
    """
    places = {row.trial: field.place(row) for row in table.rows}
    marks = marked(table.rows, places, measure)
    if len({mark.place for mark in marks}) < 2:
        return None
    by = grouping(fields, field)
    groups = grouped((mark.row for mark in marks), by)
    figure, axes = panels(f"{measure.short} by {field.short}", table, unmeasured(table.rows, places, measure))
    others = [each for each in fields if each.path != field.path and each not in by]
    is_joined = _is_joined(groups, field, others)
    is_spread = not field.is_numeric or (len(groups) > 1 and len({mark.place for mark in marks}) <= MOST_PLACES)
    moved = _spread(marks, groups, field) if is_spread and not is_joined else marks
    for number, group in enumerate(groups):
        members = {row.trial for row in group.rows}
        own = [mark for mark in moved if mark.row.trial in members]
        _draw(axes.main, own, group, number, is_joined=is_joined, is_alone=len(groups) == 1)
    draw_best(axes.main, moved, table.best)
    explain_open(axes.main, moved)
    finish(axes.main, measure, moved, measure.of_dense(table.rows))
    axes.lowest.set_xlabel(field.label)
    _scale(axes.lowest, field, [place for place in places.values() if place is not None])
    missing = sum(place is None for place in places.values())
    notes = [f"{missing} of {len(places)} trials have no place on this axis"] if missing else []
    notes += ["trials of one number stand side by side"] if field.is_numeric and moved is not marks else []
    if notes:
        axes.main.set_title("; ".join(notes), fontsize=9)
    legend_below(figure, [axes.main])
    return figure


def _draw(axes: Axes, marks: Sequence[Mark], group: Group, number: int, *, is_joined: bool, is_alone: bool) -> None:
    colour, marker, dashes = look(number)
    label = "_trials" if is_alone else group.label
    if is_joined:
        values: dict[float, list[float]] = defaultdict(list)
        for mark in marks:
            values[mark.place].append(mark.value)
        ordered = sorted(values)
        axes.plot(ordered, [fmean(values[place]) for place in ordered], color=colour, linestyle=dashes)
    draw_marks(axes, marks, look(number))
    line = dashes if is_joined else "none"
    axes.plot([], [], color=colour, marker=marker, linestyle=line, label=label)


def _is_joined(groups: Sequence[Group], field: VariedField, others: Sequence[VariedField]) -> bool:
    """Whether a line through a group's trials says how the figure goes with the field, and with nothing else."""
    return field.is_numeric and all(
        len({key(other.settings[row.trial]) for row in group.rows}) == 1 for group in groups for other in others
    )


def _spread(marks: Sequence[Mark], groups: Sequence[Group], field: VariedField) -> list[Mark]:
    """The marks of each place beside each other, group by group, where they would cover each other."""
    scaled = [math.log(mark.place) if field.is_logarithmic else mark.place for mark in marks]
    places = sorted(set(scaled))
    gap = min(after - before for before, after in itertools.pairwise(places))
    width = gap * (_NUMBERS_WIDTH if field.is_numeric else _WORDS_WIDTH) / len(groups)
    shifts: dict[int, float] = {}
    for number, group in enumerate(groups):
        members = {row.trial for row in group.rows}
        sharing: dict[float, list[int]] = defaultdict(list)
        for mark in marks:
            if mark.row.trial in members:
                sharing[mark.place].append(mark.row.trial)
        middle = (number - (len(groups) - 1) / 2) * width
        for trials in sharing.values():
            for turn, trial in enumerate(trials):
                shifts[trial] = middle + ((turn + 0.5) / len(trials) - 0.5) * 0.7 * width
    return [
        Mark(mark.row, math.exp(at) if field.is_logarithmic else at, mark.value)
        for mark, at in ((mark, place + shifts[mark.row.trial]) for mark, place in zip(marks, scaled, strict=True))
    ]


def _scale(axes: Axes, field: VariedField, places: Sequence[float]) -> None:
    if not field.is_numeric:
        names = list(field.categories.values())
        axes.set_xticks(range(len(names)), [wrapped(name, max(6, 72 // len(names))) for name in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.grid(visible=False, axis="x")
    elif field.is_logarithmic:
        logarithmic(axes, "x", max(places) / min(places))
