"""Reads a recipe file for submission: its local paths become absolute, for the server runs in another folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from workers.contracts.recipe import parse_yaml


class BadFile(Exception):  # an answer to the user, not a fault
    """The file is no recipe. The message says where."""


def read_recipe(file: Path) -> dict[str, Any]:
    """The recipe's plain values; `-` reads the standard input. What they mean is for the server to judge.

    Raises:
        BadFile: it cannot be read, is no YAML, or holds something else than named fields.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        recipe = parse_yaml(text)
    except OSError as error:
        raise BadFile(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadFile(f"{file} is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise BadFile(f"{file} holds no recipe: write named fields such as `model:` and `method:`")
    for holder, field in _paths(recipe):
        holder[field] = absolute(holder[field])
    return recipe


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
