"""Fields of a recipe by their dotted names: how they are written, set anew, and told in the names of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any

from pydantic import Field

from workers.errors import RecipeError

FIELD_PATH = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$"

FieldPath = Annotated[str, Field(pattern=FIELD_PATH, examples=["method.ratio"])]
"""A field of the recipe, such as `method.training.learning_rate`."""


def with_change(plain: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """The recipe's plain values with one field set anew; sections that are missing on the way to it are made.

    Raises:
        RecipeError: what is on the way to the field has no fields of its own.
    """
    changed = deepcopy(dict(plain))
    *sections, last = field.split(".")
    place = changed
    for depth, section in enumerate(sections, start=1):
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise RecipeError(field, f"{'.'.join(sections[:depth])} has no fields of its own; set it as a whole")
    place[last] = deepcopy(value)
    return changed


def with_changes(plain: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """As `with_change`, one after the other; a field comes after the sections that hold it, whatever their order.

    Raises:
        RecipeError: see `with_change`.
    """
    changed = dict(plain)
    for field in sorted(change, key=lambda name: name.count(".")):  # stable: fields of one depth stay in order
        changed = with_change(changed, field, change[field])
    return changed


def holds(field: str, other: str) -> bool:
    """Whether a field is another one, or a section that holds it."""
    return other == field or other.startswith(f"{field}.")


def shown(field: str, value: Any) -> str:
    """A field's value as part of a row's name: words stand alone (`wikitext2`), others follow the field's name."""
    name = field.rpartition(".")[2]
    if isinstance(value, str):
        text = value.rstrip("/").rpartition("/")[2] or value
        return text if text[:1].isalpha() else f"{name} {text}"
    if isinstance(value, dict):
        return f"{name} {value['kind'] if set(value) == {'kind'} else json.dumps(value, sort_keys=True)}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {json.dumps(value)}"
