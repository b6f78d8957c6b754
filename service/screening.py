"""The checks that a recipe passes before it is queued: its paths, and what the model's own config.json allows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import InvalidRecipe
from workers import stored_model
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.errors import RecipeError
from workers.models.family import family_of
from workers.planning.shapes import require_possible
from workers.tasks.task import load_local


def screened(recipe: Recipe, places: Places) -> Recipe:
    """The recipe with every path absolute: a worker's current folder is another than the caller's.

    Raises:
        InvalidRecipe: it could never run; names the field.
    """
    with blaming():
        folder = places.model_folder(recipe.model.source, recipe.model.revision)
        data_path = _text(places, recipe.data.path, "data.path")
        text_paths = [
            _text(places, text.path, f"evaluate.perplexity.{place}.path")
            for place, text in enumerate(recipe.evaluate.perplexity)
        ]
        if folder is not None:
            _check_model(recipe, folder)
        for wanted in recipe.evaluate.wanted_tasks:
            load_local(wanted, places)
    texts = [
        text.model_copy(update={"path": path})
        for text, path in zip(recipe.evaluate.perplexity, text_paths, strict=True)
    ]
    source = recipe.model.source if folder is None else absolute(recipe.model.source)
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"source": source}),
            "data": recipe.data.model_copy(update={"path": data_path}),
            "evaluate": recipe.evaluate.model_copy(update={"perplexity": texts}),
        }
    )


@contextmanager
def blaming() -> Iterator[None]:
    """Put what a look at the recipe's sources complains of in the service's words.

    Raises:
        InvalidRecipe: a `RecipeError` in the block, or a field that config.json lacks.
    """
    try:
        yield
    except RecipeError as error:
        raise InvalidRecipe.of(error) from error
    except AttributeError as error:
        if not isinstance(error.obj, stored_model.PlainConfig):
            raise
        message = f"its config.json lacks {error.name!r}, which this architecture needs; complete it"
        raise InvalidRecipe("model.source", message) from error


def _text(places: Places, path: str | None, field: str) -> str | None:
    if path is None:
        return None
    places.text_file(path, field)
    return absolute(path)


def absolute(path: str) -> str:
    """A path as any process finds it."""
    # Symbolic links stay as the user wrote them; the worker follows and confines them again.
    return str(Path(path).expanduser().absolute())


def _check_model(recipe: Recipe, folder: Path) -> None:
    """What the model's family says of this variant, this context and this width."""
    stored_model.tensors(folder)  # a download that broke off is told now
    config = stored_model.plain_config(folder)
    _check_context(recipe, getattr(config, "max_position_embeddings", None))
    try:
        family = family_of(config)
        require_possible(recipe.method, family, config)
    except (TypeError, ValueError, ArithmeticError) as error:
        message = f"its config.json holds values that describe no model ({error}); complete it"
        raise InvalidRecipe("model.source", message) from error


def _check_context(recipe: Recipe, context: Any) -> None:
    if not isinstance(context, int):
        return
    for field, tokens in (
        ("data.sequence_length", recipe.data.sequence_length),
        ("evaluate.sequence_length", recipe.evaluate.sequence_length),
    ):
        if tokens is not None and tokens > context:
            raise InvalidRecipe(field, f"{tokens} tokens exceed the model's context; at most {context}")
    speed = recipe.evaluate.speed_settings
    if speed is not None and (fault := speed.too_long(context)):
        field, asked, most = fault
        raise InvalidRecipe(field, f"{asked} tokens exceed the model's context of {context}; at most {most}")
