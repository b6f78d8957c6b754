"""The trials of a search that its plan shows: all of a grid's, and one for each value where they are not known yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.recipes import BadFile
from workers.contracts.base import field_path
from workers.contracts.search import Point, Search, checked
from workers.contracts.study import Row
from workers.errors import RecipeError
from workers.searching.columns import field_titles
from workers.searching.row import shown_setting

MOST_PLANNED = 64
"""Each is a question to the server."""


def read_search(plain: Mapping[str, Any]) -> Search:
    """A search file's plain values as a search.

    Raises:
        BadFile: it is no search, or none of its trials could run; names the field.
    """
    try:
        search = Search.model_validate(plain)
        checked(search)
    except RecipeError as error:
        raise BadFile(str(error)) from error
    except ValidationError as error:
        flaws = (f"{field_path(plain, flaw['loc'])}: {flaw['msg']}" for flaw in error.errors())
        raise BadFile("\n".join(flaws)) from error
    return search


def planned_trials(search: Search) -> tuple[list[Row], list[str]]:
    """Trials as rows to plan, and what they are of the search, in words. One whose values make no recipe is left out.

    With a scheduler, or a budget of time, fewer are trained to their end than the plan says.
    """
    is_grid, most = search.algorithm == "grid", search.trials_at_most
    wanted = _of_grid(search) if is_grid else [*search.first, *(point for _, point in search.probes())]
    titles = field_titles(search.space)
    rows: list[Row] = []
    refused = 0
    for point in wanted[:MOST_PLANNED]:
        try:
            recipe = search.recipe_at(point)
        except RecipeError:
            refused += 1
            continue
        name = ", ".join(f"{titles[field]} {shown_setting(field, value)}" for field, value in point.items())
        row = Row(name=name, slug=str(len(rows) + 1), recipe=recipe)
        if all(row.recipe != other.recipe for other in rows):
            rows.append(row)
    notes: list[str] = []
    if not is_grid:
        notes.append(
            f"which trials a search by {search.algorithm} makes is not known before: these show each value once; "
            f"at most {most} trials will be begun"
        )
    if len(wanted) > MOST_PLANNED:
        shown = f"{most} trials" if is_grid else f"these {len(wanted)}"
        notes.append(f"the first {MOST_PLANNED} of {shown} are shown")
    if refused:
        notes.append(f"{refused} of the trials looked at would fail, since their values make no recipe together")
    if search.scheduler is not None:
        notes.append(f"{search.scheduler.kind} ends some of them early; the plan takes each to its end")
    return rows, notes


def _of_grid(search: Search) -> list[Point]:
    points = [search.grid_point(place) for place in range(min(search.grid_size, MOST_PLANNED + 1))]
    return [*search.first, *(point for point in points if point is not None)][: search.trials_at_most]
