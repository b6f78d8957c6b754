"""A study: one file that holds a whole table of experiments. It expands into named recipes, and adds the controls."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, JsonValue, ValidationError, model_validator
from yaml import YAMLError

from workers.contracts.base import Contract, field_path
from workers.contracts.controls import controls_of
from workers.contracts.fields import FIELD_PATH, FieldPath, holds, shown, with_change, with_changes
from workers.contracts.method_list import (
    ALL_TO_RECOVERY,
    MethodRow,
    as_study,
    is_list_of_methods,
    trains_nothing_first,
)
from workers.contracts.recipe import Recipe, parse_yaml
from workers.contracts.search import Search, is_search
from workers.errors import RecipeError

MOST_ROWS = 500
"""Rows a study may have, controls not counted: more is a slip in the grid."""

LONGEST_SLUG = 63
"""Characters of a label's value, and of a folder's name."""


class Variation(Contract):
    """A row of the table: a name, and where its recipe differs from the base."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """What the row is called in the table."""
    change: dict[FieldPath, JsonValue] = {}
    """New values by field: `{method.ratio: 0.3, recover: {kind: none}}`. A value takes the place of the whole field."""


class Study(Contract):
    """A table of experiments. `rows` names them one by one, or `methods` lists methods; `grid` multiplies values,
    and crosses with either. A recipe with `methods` in place of `method` is a study whose base is all else it says."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    """What the table is called. A recipe with `methods` may leave it out."""
    about: Annotated[str, Field(min_length=1, max_length=2000)]
    """One sentence: which table or figure this is, and what varies. A recipe with `methods` may leave it out."""
    base: dict[str, Any]
    """The recipe that every row starts from. What each row changes anyway may be left out."""
    rows: Annotated[list[Variation], Field(max_length=MOST_ROWS)] = []
    """The rows, in the order of the table."""
    methods: Annotated[list[MethodRow], Field(max_length=MOST_ROWS)] = []
    """Pruning methods in place of `rows`, each a row: `[{kind: sleb, ratio: 0.25}, {name: ours, kind: dress, ...}]`."""
    grid: dict[FieldPath, Annotated[list[JsonValue], Field(min_length=1)]] = {}
    """Values by field; every combination is a row, the first field changing slowest. Names are made from what
    varies. With `rows` or `methods`, every row is run at every point of the grid."""
    controls: bool = True
    """Add what an honest comparison needs: the dense model fine-tuned on the same data, and the model cut first, with
    and without rotation, and then trained on it. One set for each model, data, ratio, seed and way of training. Methods
    that train nothing themselves are compared with the controls of those that do."""

    @model_validator(mode="before")
    @classmethod
    def _from_methods(cls, given: Any) -> Any:
        return as_study(given) if is_list_of_methods(given) else given

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        self._has_rows()
        count = (len(self.variations) or 1) * math.prod(len(values) for values in self.grid.values())
        if count > MOST_ROWS:
            raise ValueError(f"rows and grid make {count} rows; at most {MOST_ROWS} are run in one study")
        if twice := _repeated(row.name for row in self.variations):
            part = "methods" if self.methods else "rows"
            raise ValueError(f"{part}: two are called {twice!r}; give each a name of its own")
        for field, values in self.grid.items():
            if twice := _repeated(json.dumps(value, sort_keys=True) for value in values):
                raise ValueError(f"grid.{field}: {twice} stands there twice")
            if any(field in row.change for row in self.variations):
                raise ValueError(f"grid.{field}: a row changes it too; only one of the two can win")
        return self

    def _has_rows(self) -> None:
        if not self.rows and not self.grid and not self.methods:
            raise ValueError("a study needs rows, a grid, or both; or a list of methods")
        if self.rows and self.methods:
            raise ValueError("rows and methods: only one of the two; a row may change `method` as a whole")
        if self.methods and "method" in self.base:
            raise ValueError("method and methods: write the one method into the list, or leave the list out")

    @property
    def variations(self) -> list[Variation]:
        """The rows as they were named, or made of the list of methods."""
        made = [Variation(name=row.title, change={"method": row.settings, **row.change}) for row in self.methods]
        return self.rows or made

    @property
    def slug(self) -> str:
        """The title in a form that labels and folders allow."""
        return slug(self.title)


@dataclass(frozen=True)
class Row:
    """A row of the table, ready to run."""

    name: str
    slug: str
    """The name in a form that labels and folders allow; no two rows share it."""
    recipe: Recipe
    is_control: bool = False


def is_study(plain: object) -> bool:
    """Whether a YAML document is a study, or a recipe with `methods`; else it is meant as a recipe."""
    return isinstance(plain, dict) and ("base" in plain or "methods" in plain)


def expand(study: Study) -> list[Row]:
    """The study's rows in the order of the table, then its controls.

    Raises:
        RecipeError: a row's recipe is invalid or equals another's; names the field and the row.
    """
    wanted = [(name, _recipe(study.base, _with_split(study, change), name)) for name, change in _variations(study)]
    seen: dict[str, str] = {}
    for name, recipe in wanted:
        asked = recipe.model_dump_json()
        if asked in seen:
            message = f"{seen[asked]!r} and {name!r} ask for the same; what tells them apart has no effect"
            raise RecipeError("rows", message)
        seen[asked] = name
    added: list[tuple[str, Recipe]] = []
    if study.controls:
        asking = [recipe for _, recipe in wanted if hasattr(recipe.method, "training")]
        added = _controls(asking or [recipe for _, recipe in wanted])
        added = [(name, recipe) for name, recipe in added if recipe.model_dump_json() not in seen]
    names = _distinct([name for name, _ in (*wanted, *added)], " ({})")
    slugs = _distinct([slug(name) for name in names], "-{}")
    recipes = [recipe for _, recipe in (*wanted, *added)]
    return [
        Row(name, short, recipe, is_control=place >= len(wanted))
        for place, (name, short, recipe) in enumerate(zip(names, slugs, recipes, strict=True))
    ]


def slug(name: str) -> str:
    """Lower-case letters, digits and hyphens, as labels and folders allow."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain[:LONGEST_SLUG].rstrip("-") or "row"


def with_settings(plain: Any, settings: Iterable[str]) -> Any:
    """A YAML document with `FIELD=VALUE` settings applied: to a recipe, or to a study's or a search's base.

    A recipe with `methods` comes back as the study that it is.

    A field of a study's grid, or of a search's space, takes the one value in place of those there; the search's own
    fields (`trials`, `algorithm` and the like) are set by their names.

    Raises:
        RecipeError: a setting is no `FIELD=VALUE`, or a row of the study changes its field.
    """
    plain = as_study(plain) if is_list_of_methods(plain) else plain
    for setting in settings:
        field, given, text = setting.partition("=")
        if not given or not re.fullmatch(FIELD_PATH, field):
            raise RecipeError("--set", f"{setting}: write FIELD=VALUE, such as model.source=./my-model")
        plain = _set(plain, field, _value(setting, text)) if isinstance(plain, dict) else plain
    return plain


def _value(setting: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except YAMLError as error:
        raise RecipeError("--set", f"{setting}: the value is no YAML") from error


def _set(plain: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    if is_search(plain):
        return _set_in_search(plain, field, value)
    if not is_study(plain):
        return with_change(plain, field, value)
    grid, rows = plain.get("grid"), plain.get("rows")
    if isinstance(grid, dict) and field in grid:
        return {**plain, "grid": {**grid, field: [value]}}
    for row in rows if isinstance(rows, list) else []:
        changes = row.get("change") if isinstance(row, dict) else None
        if isinstance(changes, dict) and any(holds(str(changed), field) for changed in changes):
            raise RecipeError(field, f"row {row.get('name')!r} of the study changes it; edit the rows instead")
    if plain.get("methods") and holds("method", field):
        raise RecipeError(field, "the study lists its methods; edit the list instead")
    return {**plain, "base": with_change(plain["base"], field, value)} if isinstance(plain["base"], dict) else plain


def _set_in_search(plain: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    space = plain["space"]
    if isinstance(space, dict) and field in space:
        return {**plain, "space": {**space, field: {"choice": [value]}}}
    if field.partition(".")[0] in Search.model_fields:
        return with_change(plain, field, value)
    base = plain.get("base") or {}
    return {**plain, "base": with_change(base, field, value)} if isinstance(base, dict) else plain


def _variations(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and changes of each row: the grid turns slowly, the rows quickly."""
    fields = list(study.grid)
    varying = [field for field, values in study.grid.items() if len(values) > 1]
    for values in itertools.product(*study.grid.values()):
        point = dict(zip(fields, values, strict=True))
        told = varying or ([] if study.variations else fields)
        names = [shown(field, point[field]) for field in told]
        if not study.variations:
            yield ", ".join(names), point
        for row in study.variations:
            yield ", ".join([*names, row.name]), {**point, **row.change}


def _with_split(study: Study, change: dict[str, Any]) -> dict[str, Any]:
    """The changes of a method's row, with all samples for recovery where the method trains nothing before the cut."""
    if not study.methods or any(field in ("data", "data.split") for field in change):
        return change
    method = with_changes({}, {field: value for field, value in change.items() if holds("method", field)})["method"]
    return {**change, "data.split": ALL_TO_RECOVERY} if trains_nothing_first(method) else change


def _recipe(base: Mapping[str, Any], change: Mapping[str, Any], name: str) -> Recipe:
    plain = dict(base)
    try:
        plain = with_changes(base, change)
        return Recipe.model_validate(plain)
    except RecipeError as error:
        raise RecipeError(error.field, f"row {name!r}: {error.detail}") from error
    except ValidationError as error:
        flaw = error.errors()[0]
        field = field_path(plain, flaw["loc"])
        raise RecipeError(field or "recipe", f"row {name!r}: {flaw['msg'].removeprefix('Value error, ')}") from error


def _controls(recipes: Iterable[Recipe]) -> list[tuple[str, Recipe]]:
    """The controls of all rows, each once, named by what tells it from others of its kind."""
    kinds: dict[str, dict[str, Recipe]] = {}
    for recipe in recipes:
        for title, control in controls_of(recipe).items():
            kinds.setdefault(title, {}).setdefault(control.model_dump_json(), control)
    named = []
    for title, controls in kinds.items():
        flat = [dict(_leaves(control.model_dump(mode="json"))) for control in controls.values()]
        fields = list(dict.fromkeys(field for leaves in flat for field in leaves))
        varying = [field for field in fields if len({json.dumps(leaves.get(field)) for leaves in flat}) > 1]
        for leaves, control in zip(flat, controls.values(), strict=True):
            told = dict.fromkeys(shown(field, leaves[field]) for field in varying if leaves.get(field) is not None)
            named.append((f"{title} ({', '.join(told)})" if told else title, control))
    return named


def _leaves(plain: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value


def _repeated(texts: Iterable[str]) -> str | None:
    """The first text that an earlier one equals."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None


def _distinct(texts: Iterable[str], mark: str) -> list[str]:
    """The texts in order, a number added to each that an earlier one equals; none grows beyond a label's length."""
    taken: set[str] = set()
    kept = []
    for text in texts:
        candidate, number = text, 1
        while candidate in taken:
            number += 1
            suffix = mark.format(number)
            candidate = text[: LONGEST_SLUG - len(suffix)].rstrip("-") + suffix if mark == "-{}" else text + suffix
        taken.add(candidate)
        kept.append(candidate)
    return kept
