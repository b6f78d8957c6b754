"""Which stages a recipe has, in what order and under which keys: known before anything runs, and without torch.

A stage's key is the digest of all that decides its result: model, texts, settings, seed, code, kind of device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workers import stored_model
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageName, Subject
from workers.contracts.tasks import WantedTask

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""Libraries whose versions decide results."""

NOT_DECIDING = frozenset(
    {
        *(
            "__init__.py",
            "__main__.py",
            "actor.py",
            "attempt.py",
            "comparison",
            "contracts",
            "drawing.py",
            "durable.py",
        ),
        *("errors.py", "figures", "high_water.py", "licence.py", "local_checkpoints.py", "local_run.py"),
        *("local_store.py", "local_uploads.py", "model_card.py", "object_store", "pipeline.py", "searching"),
        *("study_run.py", "study_table.py"),
        "tuning.py",
        *("planning/forecast.py", "planning/needs.py", "planning/peaks.py", "planning/room.py", "planning/shapes.py"),
    }
)
"""The parts of this package that change no stage's result. A new module counts as deciding until it is named here:
computing once too often is cheap, finding a stale result is not."""

NOT_OF_PERPLEXITY = {"speed", "perplexity", "tasks", "tasks_limit", "tasks_num_fewshot", "tasks_batch_size", "tasks_of"}
"""Fields of `evaluate` that decide no perplexity; the texts stand in the keys by their digests."""

CALIBRATION_SEQUENCES = 128
"""As `workers.pruning.method`, whose methods look at so many sequences before it trains."""

SIZES = "the sizes"
"""The part of an evaluation that needs no text. No text's label has a blank, so none is called the same."""

DECIDING_CONTRACTS = frozenset({"contracts/widths.py"})
"""Contracts that compute; what the others hold is in the keys by value."""


@dataclass(frozen=True)
class Sources:
    """Digests of what goes into a recipe's stages. None is what cannot be known where this is asked."""

    model: str | None
    """See `model_digest`."""
    training_text: str | None
    """Of the training documents, those of the evaluation texts taken out."""
    texts: Mapping[str, str | None]
    """Of each evaluation text, by its key in the recipe."""
    code: str | None
    """See `code_digest`."""
    machine: str | None
    """What the speed of a model depends on, in words."""
    sequence_length: int | None = None
    """Tokens of a training sequence, where the recipe leaves it to the model."""
    tasks: Mapping[str, str | None] = field(default_factory=dict)
    """Of each zero-shot task's rows and of lm-eval, by its name."""

    @classmethod
    def unknown(cls) -> Sources:
        """Enough to tell the order of the stages, and no key."""
        return cls(None, None, {}, None, None)


@dataclass(frozen=True)
class PlannedPart:
    """What an evaluation measures by itself, and finds again by itself: one text, one task, or the sizes."""

    name: str
    """The text's name in the recipe, the task's, or `SIZES`. It decides nothing."""
    key: str | None
    """None if a source of it is not known."""


@dataclass(frozen=True)
class PlannedStage:
    """One step of the plan."""

    name: StageName
    key: str | None
    """None if a source of it is not known. An evaluation's stands for those of its parts, which have the results."""
    subject: Subject | None = None
    """The model an evaluation is about."""
    parts: tuple[PlannedPart, ...] = ()
    """Of an evaluation; other stages have none."""

    @property
    def result_keys(self) -> tuple[str | None, ...]:
        """Under which its results are stored: the parts' keys, or its own."""
        return tuple(part.key for part in self.parts) or (self.key,)


def stages_of(recipe: Recipe, sources: Sources) -> list[PlannedStage]:
    """The stages of a recipe, in order."""
    code, seed = sources.code, recipe.seed
    device = device_kind(recipe)
    # A path or an id decides nothing: the digest of what it leads to does.
    data = recipe.data.model_dump(mode="json", exclude={"path", "dataset", "dataset_sha256"})
    data["sequence_length"] = recipe.data.sequence_length or sources.sequence_length
    looked, found = recipe.method.for_covariance(), recipe.method.for_basis()
    seen = (sources.model, data, seed, sources.training_text, code, device)
    looked_at = (sources.model, _looked_at(recipe, data), seed, sources.training_text, code, device)
    basis = "none" if found is None else _key("basis", found, *seen)
    regularized = _key("regularize", recipe.method.for_regularize(), basis, *seen)
    final = pruned = _key("prune", regularized, recipe.method.for_prune(), seed)
    stages = [
        *_evaluating(recipe, sources, "dense", sources.model),
        *([] if looked is None else [PlannedStage("covariance", _key("covariance", looked, *looked_at))]),
        *([] if found is None else [PlannedStage("basis", basis)]),
        PlannedStage("regularize", regularized),
        PlannedStage("prune", pruned),
        *_evaluating(recipe, sources, "pruned", pruned),
    ]
    if recipe.recover.kind != "none":
        final = _key("recover", pruned, recipe.recover.model_dump(mode="json"))
        stages += [PlannedStage("recover", final), *_evaluating(recipe, sources, "recovered", final)]
    if (form := recipe.speed_form()) is not None:
        occupied = recipe.resources.model_dump(mode="json", include={"gpus", "cpus"})
        asked = asdict(form)  # what the model's context makes of it follows from the model
        key = _key("benchmark", asked, sources.model, pruned, final, occupied, sources.machine, code, device, seed)
        stages.append(PlannedStage("benchmark", key))
    return stages


def _looked_at(recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    """The data as a look at the dense model sees them: the first sequences of the share, however many follow."""
    share = recipe.data.regularize_samples or recipe.data.samples
    rest = {name: value for name, value in data.items() if name not in ("samples", "split")}
    return {**rest, "sequences": min(CALIBRATION_SEQUENCES, share)}


def _evaluating(recipe: Recipe, sources: Sources, subject: Subject, model: str | None) -> list[PlannedStage]:
    """The stages that measure a model; `model` is the key or digest that its weights are known by."""
    settings, code, device = recipe.evaluate, sources.code, device_kind(recipe)
    protocol = settings.model_dump(mode="json", exclude=NOT_OF_PERPLEXITY)
    texts = {
        text.key: _key("evaluate", model, protocol, sources.texts.get(text.key), code, device)
        for text in settings.perplexity
    }
    stages = [_measuring("evaluate", subject, {SIZES: _key("sizes", model, code), **texts})]
    if settings.tasks and subject in settings.tasks_of:
        with_all = (settings.tasks_batch_size, recipe.seed, code, device)
        tasks = {
            task.name: _key("zero_shot", model, _asked(task), sources.tasks.get(task.name), *with_all)
            for task in settings.wanted_tasks
        }
        stages.append(_measuring("zero_shot", subject, tasks))
    return stages


def _measuring(name: StageName, subject: Subject, keys: Mapping[str, str | None]) -> PlannedStage:
    """A stage of these parts. Its own key follows from theirs: neither names nor order count, nor what stands twice."""
    known = sorted({key for key in keys.values() if key is not None})
    parts = tuple(PlannedPart(part, key) for part, key in keys.items())
    return PlannedStage(name, None if None in keys.values() else _digest(name, known), subject, parts)


def _asked(task: WantedTask) -> dict[str, Any]:
    """All of the recipe that decides a task's figures; where the recipe names the task does not."""
    return {**asdict(task), "metric": task.metric, "field": None}


def device_kind(recipe: Recipe) -> str:
    """The kind of device that the recipe computes on, as torch names it."""
    return "cuda" if recipe.resources.gpus else "cpu"


def model_digest(folder: Path, dtype: str) -> str:
    """Digest of the dense model's weights, config and tokenizer, and of the type it is exported and evaluated in.

    Raises:
        RecipeError: see `stored_model.tensors`.
    """
    return _digest("dense", stored_model.folder_digest(folder), dtype)


@cache
def code_digest() -> str:
    """Digest of the code that decides results: this package's own, and the versions of `LIBRARIES`.

    Raises:
        importlib.metadata.PackageNotFoundError: a library is not installed here.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        part = file.relative_to(root)
        named = {part.parts[0], part.as_posix()}
        if not named & NOT_DECIDING or named & DECIDING_CONTRACTS:
            digest.update(part.as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    digest.update(" ".join(version(name) for name in LIBRARIES).encode())
    return digest.hexdigest()


def _key(*parts: Any) -> str | None:
    return None if None in parts else _digest(*parts)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
