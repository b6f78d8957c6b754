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
from workers.contracts.tasks import PAPER_ZERO_SHOT

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
        *("errors.py", "figures", "high_water.py", "licence.py", "local_run.py", "local_store.py"),
        *("local_uploads.py", "model_card.py", "pipeline.py", "study_run.py", "study_table.py"),
        *("planning/forecast.py", "planning/needs.py", "planning/peaks.py", "planning/room.py", "planning/shapes.py"),
    }
)
"""The parts of this package that change no stage's result. A new module counts as deciding until it is named here:
computing once too often is cheap, finding a stale result is not."""

NOT_OF_PERPLEXITY = {"speed", "perplexity", "tasks", "tasks_limit", "tasks_num_fewshot", "tasks_batch_size", "tasks_of"}
"""Fields of `evaluate` that decide no perplexity; the texts stand in the keys by their digests."""

DECIDING_CONTRACTS = frozenset({"contracts/widths.py"})
"""Contracts that compute; what the others hold is in the keys by value."""


@dataclass(frozen=True)
class Sources:
    """Digests of what goes into a recipe's stages. None is what cannot be known where this is asked."""

    model: str | None
    """See `model_digest`."""
    training_text: str | None
    """Of the training documents, those of the evaluation texts taken out."""
    texts: dict[str, str | None]
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
class PlannedStage:
    """One step of the plan."""

    name: StageName
    key: str | None
    """None if a source of it is not known."""
    subject: Subject | None = None
    """The model an evaluation is about."""


def stages_of(recipe: Recipe, sources: Sources) -> list[PlannedStage]:
    """The stages of a recipe, in order."""
    code, seed = sources.code, recipe.seed
    device = device_kind(recipe)
    examined = recipe.evaluate.tasks_of if recipe.evaluate.tasks else []
    # A path or an id decides nothing: the digest of what it leads to does.
    data = recipe.data.model_dump(mode="json", exclude={"path", "dataset", "dataset_sha256"})
    data["sequence_length"] = recipe.data.sequence_length or sources.sequence_length
    measured = recipe.evaluate.model_dump(mode="json", exclude=NOT_OF_PERPLEXITY)
    texts = _known(sources.texts)

    def evaluating(subject: Subject, model: str | None) -> list[PlannedStage]:
        perplexities = PlannedStage("evaluate", _key("evaluate", model, measured, texts, code, device), subject)
        if subject not in examined:
            return [perplexities]
        key = _key("zero_shot", model, _examination(recipe), _known(sources.tasks), seed, code, device)
        return [perplexities, PlannedStage("zero_shot", key, subject)]

    found = recipe.method.for_basis()
    seen = (sources.model, data, seed, sources.training_text, code, device)
    basis = "none" if found is None else _key("basis", found, *seen)
    regularized = _key("regularize", recipe.method.for_regularize(), basis, *seen)
    final = pruned = _key("prune", regularized, recipe.method.for_prune(), seed)
    stages = [
        *evaluating("dense", sources.model),
        *([] if found is None else [PlannedStage("basis", basis)]),
        PlannedStage("regularize", regularized),
        PlannedStage("prune", pruned),
        *evaluating("pruned", pruned),
    ]
    if recipe.recover.kind != "none":
        final = _key("recover", pruned, recipe.recover.model_dump(mode="json"))
        stages += [PlannedStage("recover", final), *evaluating("recovered", final)]
    if (form := recipe.speed_form()) is not None:
        occupied = recipe.resources.model_dump(mode="json", include={"gpus", "cpus"})
        asked = asdict(form)  # what the model's context makes of it follows from the model
        key = _key("benchmark", asked, sources.model, pruned, final, occupied, sources.machine, code, device, seed)
        stages.append(PlannedStage("benchmark", key))
    return stages


def _examination(recipe: Recipe) -> dict[str, Any]:
    """All of the recipe that decides the figures of zero-shot tasks; where the recipe names a task does not."""
    tasks = [{**asdict(task), "metric": task.metric, "field": None} for task in recipe.evaluate.wanted_tasks]
    groups = [task.name for task in recipe.evaluate.tasks if task.name == PAPER_ZERO_SHOT]
    return {"tasks": tasks, "groups": groups, "batch_size": recipe.evaluate.tasks_batch_size}


def _known(digests: Mapping[str, str | None]) -> dict[str, str | None] | None:
    """The digests; None if one of them is not known."""
    return None if None in digests.values() else dict(digests)


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
