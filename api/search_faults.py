"""Says what is wrong with a search where the caller wrote it: a recipe's field stands in its base, or in its space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.explain import explain, pointer
from api.schemas import JobRequest, ProblemItem
from workers.contracts.fields import holds, with_changes
from workers.contracts.recipe import Recipe
from workers.contracts.search import Search
from workers.errors import RecipeError


def search_pointer(field: str, search: Mapping[str, Any]) -> str:
    """The pointer of a search's dotted field, such as `space.method.ratio`, `base.data.path` or `objective.0`.

    Args:
        search: as the caller wrote it: of what may be one or a list, one has no places.
    """
    head, _, rest = field.partition(".")
    if head == "space":
        return pointer(["search", head, *([rest] if rest else [])])
    is_single = head in ("objective", "constraints") and not isinstance(search.get(head), list)
    return pointer(["search", head, *([] if is_single or not rest else rest.split("."))])


def written_at(field: str, search: Search) -> str:
    """Where a search says what its recipes have in a field."""
    varied = next((each for each in search.space if holds(each, field) or holds(field, each)), None)
    return f"base.{field}" if varied is None else f"space.{varied}"


def recipe_faults(search: Search) -> list[ProblemItem]:
    """All that is wrong with the recipe of the first point, as explained as in a job's request.

    Without that recipe no search is accepted, see `workers.contracts.search.checked`.
    """
    try:
        plain = with_changes(search.base, next(search.probes())[1])
        Recipe.model_validate(plain)
    except RecipeError:
        return []  # of the space itself; `checked` says which field
    except ValidationError as error:
        flaws = [{**flaw, "loc": ("body", "recipe", *flaw["loc"])} for flaw in error.errors()]
        return [_in_search(item, search) for item in explain(flaws, {"recipe": plain}, JobRequest)]
    return []


def _in_search(item: ProblemItem, search: Search) -> ProblemItem:
    """A fault of the recipe, pointed at where the search says it."""
    parts = (item.pointer or "").split("/")[2:]
    field = ".".join(part.replace("~1", "/").replace("~0", "~") for part in parts)
    where = written_at(field, search)
    varied = where.removeprefix("space.")
    detail = item.detail if where == f"base.{field}" or varied == field else f"{field}: {item.detail}"
    return ProblemItem(pointer=search_pointer(where, {}), detail=detail)
