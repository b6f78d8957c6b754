"""Reads recipe, study and search files for submission: local paths become absolute, for the server runs elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from workers.contracts.dimension import Dimension
from workers.contracts.fields import with_change
from workers.contracts.recipe import parse_yaml
from workers.contracts.study import with_settings
from workers.errors import RecipeError


class BadFile(Exception):  # an answer to the user, not a fault
    """The file is no recipe. The message says where."""


def read_recipe(file: Path, settings: Iterable[str] = ()) -> dict[str, Any]:
    """The recipe's plain values, its paths absolute; `-` reads the standard input. Its meaning is for the server.

    Raises:
        BadFile: see `read_file`.
    """
    return with_absolute_paths(read_file(file, settings))


def read_file(file: Path, settings: Iterable[str] = ()) -> dict[str, Any]:
    """The plain values of a recipe, a study or a search; `-` reads the standard input.

    Args:
        settings: fields to set anew, each as `FIELD=VALUE`: the recipe's, of a study those of its base, and of a search
            its own (`trials=8`) or, where it has none of that name, those of its base.

    Raises:
        BadFile: it cannot be read, is no YAML, or holds something else than named fields.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        recipe = with_settings(parse_yaml(text), settings)
    except RecipeError as error:
        raise BadFile(str(error)) from error
    except OSError as error:
        raise BadFile(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadFile(f"{file} is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise BadFile(f"{file} holds no recipe: write named fields such as `model:` and `method:`")
    return recipe


def with_absolute_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe itself, its local paths made absolute."""
    for holder, field in _paths(recipe):
        holder[field] = absolute(holder[field])
    return recipe


def search_with_absolute_paths(search: dict[str, Any]) -> dict[str, Any]:
    """The search itself, the local paths of its base and of the values that it tries made absolute."""
    if isinstance(search.get("base"), dict):
        with_absolute_paths(search["base"])
    space = search["space"] if isinstance(search.get("space"), dict) else {}
    for field, dimension in space.items():
        if choice := _choice(dimension):
            space[field] = {"choice": [_absolute_at(str(field), value) for value in choice]}
    for point in search["first"] if isinstance(search.get("first"), list) else ():
        for field, value in point.items() if isinstance(point, dict) else ():
            point[field] = _absolute_at(str(field), value)
    return search


def absolute(path: str) -> str:
    """A local path made absolute; a hub id (which names nothing here) as it is."""
    is_local = path.startswith((".", "~")) or os.path.exists(path)
    return os.path.abspath(os.path.expanduser(path)) if is_local else path


def _paths(recipe: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each place in the recipe that may hold a path."""
    evaluate = recipe.get("evaluate")
    texts = evaluate.get("perplexity") if isinstance(evaluate, dict) else None
    holders = [(recipe.get("model"), "source"), (recipe.get("data"), "path")]
    holders += [(text, "path") for text in texts] if isinstance(texts, list) else []
    for holder, field in holders:
        if isinstance(holder, dict) and isinstance(holder.get(field), str) and holder[field]:
            yield holder, field


def _choice(dimension: Any) -> list[Any] | None:
    """The values that are listed one by one, in words too; what is wrong with them is for the server to say."""
    try:
        return Dimension.model_validate(dimension).choice
    except ValidationError:
        return None


def _absolute_at(field: str, value: Any) -> Any:
    """A value of a recipe's field, its paths made absolute."""
    try:
        place = with_absolute_paths(with_change({}, field, value))
    except RecipeError:
        return value
    for part in field.split("."):
        place = place[part]
    return place
