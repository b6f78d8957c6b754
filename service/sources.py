"""What this machine can tell of a recipe's model and texts, without torch, without the hub, and without running."""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from service.errors import InvalidRecipe
from service.screening import blaming
from service.settings import Settings
from workers import stored_model, texts
from workers.contracts.places import Places
from workers.contracts.recipe import LONGEST_SEQUENCE, NamedText, Recipe
from workers.contracts.store import KeepsUploads
from workers.contracts.tasks import WantedTask
from workers.datasets import dataset
from workers.datasets.dataset import Documents, Part
from workers.errors import RecipeError, Transient
from workers.planning import forecast, plan
from workers.planning.needs import GIB
from workers.tasks.task import digest, load_local

BYTES_A_TOKEN = 4
"""Of English text under the usual tokenizers, about; plans do not tokenize."""


@dataclass(frozen=True)
class Seen:
    """What there is to know of a recipe before it runs."""

    sources: plan.Sources
    folder: Path | None
    """The model's folder; none for a hub model."""
    sizes: forecast.Sizes | None
    sequence_length: int
    """Tokens of a training sequence; as for a model of a long context, where the context is not known."""
    measured_tokens: dict[str, int | None]
    """Tokens on which perplexity is measured, about, by text; None if its length is neither known nor bounded."""
    notes: list[str] = field(default_factory=list)
    """What could not be found out, and why."""


def look(recipe: Recipe, settings: Settings, store: KeepsUploads) -> Seen:
    """Look at the sources of a recipe that was screened. What is not on this machine is noted, not refused.

    Args:
        store: where data sets are kept.
    Raises:
        InvalidRecipe: a source that is here cannot be used.
    """
    notes: list[str] = []
    places = settings.places().model_copy(update={"ask_hub": False})
    with blaming():
        folder = places.model_folder(recipe.model.source, recipe.model.revision)
        config = None if folder is None else stored_model.plain_config(folder)
        context = getattr(config, "max_position_embeddings", None)
        sequence_length = recipe.data.resolved_sequence_length(context)
        sizes, digest = _model(recipe, folder, settings, notes)
        measured, training = _texts(recipe, places, store, notes)
        tasks = {wanted.name: _task(wanted, places, notes) for wanted in recipe.evaluate.wanted_tasks}
    sources = plan.Sources(
        model=digest,
        training_text=None if training is None else training.sha256,
        texts={key: None if text is None else text.sha256 for key, text in measured.items()},
        code=_code(notes),
        machine=None,  # a benchmark's key names the machine that will run it
        sequence_length=None if config is None else sequence_length,
        tasks=tasks,
    )
    return Seen(sources, folder, sizes, sequence_length, _measured_tokens(recipe, measured, context), notes)


def _model(
    recipe: Recipe, folder: Path | None, settings: Settings, notes: list[str]
) -> tuple[forecast.Sizes | None, str | None]:
    """The model's sizes and digest."""
    if folder is None:
        notes.append(f"model: {recipe.model.source} is a model of the hub, which only the worker asks")
        return None, None
    sizes = None
    try:
        sizes = forecast.sizes_of(recipe, folder)
    except LookupError as error:
        notes.append(f"model: its sizes are not known, for it lacks the tensor {error} of its architecture")
    size_gib = stored_model.stored_bytes(folder) / GIB
    if size_gib > settings.plan_digest_gib:
        notes.append(f"model: {size_gib:.1f} GiB are not read for a plan (DRESS_PLAN_DIGEST_GIB)")
        return sizes, None
    return sizes, plan.model_digest(folder, stored_model.stored_dtype(folder, recipe.model.dtype))


def _texts(
    recipe: Recipe, places: Places, store: KeepsUploads, notes: list[str]
) -> tuple[dict[str, Documents | None], Documents | None]:
    """The evaluation texts by key, and the training text without their documents."""
    measured = {
        text.key: _text(text, "evaluation", places, store, f"evaluate.perplexity.{index}", notes)
        for index, text in enumerate(recipe.evaluate.perplexity)
    }
    training = _text(recipe.data, "train", places, store, "data.name", notes)
    held_out = [text for text in measured.values() if text is not None]
    if training is None or len(held_out) < len(measured):
        return measured, None
    return measured, dataset.without(training, held_out)


def _text(
    text: NamedText, part: Part, places: Places, store: KeepsUploads, field: str, notes: list[str]
) -> Documents | None:
    try:
        return texts.load(text, part, places, store, field)
    except RecipeError as error:
        if text.name == "text":
            raise InvalidRecipe.of(error) from error
        notes.append(f"{error.field}: {text.name} is not on this machine: {error.detail}")
    except Transient as error:
        notes.append(f"{field}: the artifact store does not answer: {error}")
    return None


def _task(wanted: WantedTask, places: Places, notes: list[str]) -> str | None:
    """Digest of a task's rows, where they are on this machine.

    Raises:
        RecipeError: a file of the task is malformed.
    """
    rows = load_local(wanted, places)
    if rows is None:
        notes.append(f"{wanted.field}: the rows of {wanted.name} are not on this machine; the worker asks the hub")
        return None
    try:
        return digest(rows)
    except PackageNotFoundError as error:
        notes.append(f"{wanted.field}: {error.name} is not installed where this was planned")
        return None


def _code(notes: list[str]) -> str | None:
    try:
        return plan.code_digest()
    except PackageNotFoundError as error:
        notes.append(f"code: {error.name} is not installed where this was planned, so no stage's key is known")
        return None


def _measured_tokens(recipe: Recipe, texts: dict[str, Documents | None], context: int | None) -> dict[str, int | None]:
    """Windows times their length."""
    settings = recipe.evaluate
    length = settings.sequence_length or min(LONGEST_SEQUENCE, context or LONGEST_SEQUENCE)
    counts = {key: _windows(text, length, settings.windows) for key, text in texts.items()}
    return {key: None if count is None else length * count for key, count in counts.items()}


def _windows(text: Documents | None, length: int, most: int | None) -> int | None:
    if text is None:
        return most
    there = max(1, len(text.text.encode()) // BYTES_A_TOKEN // length)
    return there if most is None else min(there, most)
