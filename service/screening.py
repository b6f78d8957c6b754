"""The checks that a recipe passes before it is queued: its paths, and what the model's own config.json allows."""

import json
from pathlib import Path
from typing import Any

from service.errors import InvalidRecipe
from workers.contracts.places import Places
from workers.contracts.recipe import FAMILIES, Recipe
from workers.contracts.widths import width_kept
from workers.errors import RecipeError


def screened(recipe: Recipe, places: Places) -> Recipe:
    """The recipe with every path absolute: a worker's current folder is another than the caller's.

    Raises:
        InvalidRecipe: it could never run; names the field.
    """
    try:
        folder = places.model_folder(recipe.model.source, recipe.model.revision)
        data_path = _text(places, recipe.data.path, "data.path")
        text_paths = [
            _text(places, text.path, f"evaluate.perplexity.{place}.path")
            for place, text in enumerate(recipe.evaluate.perplexity)
        ]
    except RecipeError as error:
        raise InvalidRecipe.of(error) from error
    if folder is not None:
        _check_model(recipe, folder)
    texts = [
        text.model_copy(update={"path": path})
        for text, path in zip(recipe.evaluate.perplexity, text_paths, strict=True)
    ]
    source = recipe.model.source if folder is None else _absolute(recipe.model.source)
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"source": source}),
            "data": recipe.data.model_copy(update={"path": data_path}),
            "evaluate": recipe.evaluate.model_copy(update={"perplexity": texts}),
        }
    )


def _text(places: Places, path: str | None, field: str) -> str | None:
    if path is None:
        return None
    places.text_file(path, field)
    return _absolute(path)


def _absolute(path: str) -> str:
    # Symbolic links stay as the user wrote them; the worker follows and confines them again.
    return str(Path(path).expanduser().absolute())


def _check_model(recipe: Recipe, folder: Path) -> None:
    config = _config(folder)
    family = config.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise InvalidRecipe("model.source", f"its architecture is {family}; supported are: {known}")
    _check_context(recipe, config.get("max_position_embeddings"))
    _check_width(recipe, config.get("hidden_size"), config.get("num_attention_heads"))


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRecipe("model.source", f"{folder.name}/config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidRecipe("model.source", f"{folder.name}/config.json holds no object")
    return config


def _check_context(recipe: Recipe, context: Any) -> None:
    if not isinstance(context, int):
        return
    for field, tokens in (
        ("data.sequence_length", recipe.data.sequence_length),
        ("evaluate.sequence_length", recipe.evaluate.sequence_length),
    ):
        if tokens is not None and tokens > context:
            raise InvalidRecipe(field, f"{tokens} tokens exceed the model's context; at most {context}")


def _check_width(recipe: Recipe, hidden_size: Any, heads: Any) -> None:
    """The width that the cut rounds to must lose something and leave something."""
    if not isinstance(hidden_size, int) or not isinstance(heads, int):
        return
    try:
        width_kept(hidden_size, heads, recipe.method.ratio, recipe.method.round_to)
    except RecipeError as error:
        raise InvalidRecipe.of(error) from error
