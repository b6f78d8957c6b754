"""Whether stages fit in memory, and what to change in the recipe where they do not. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workers import stored_model
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageName, Subject
from workers.contracts.speed import SpeedSettings
from workers.contracts.training import TrainingSettings
from workers.planning.forecast import sizes_of
from workers.planning.peaks import Items, Rules

GIB = 2**30
LARGEST_ITEMS = 3
"""So many items of what a stage needs are named when it is refused."""

WORTH_FRACTION = 0.02
"""A setting that saves a smaller share of the peak is not advised."""

CHUNK_TOKENS = 1024

Stage = tuple[StageName, Subject | None]
Change = dict[str, Any]
"""New values by field, such as `method.training.optimizer`; they go together."""


def rules_for(recipe: Recipe, folder: Path) -> Rules:
    """The rules that tell what each stage of a recipe needs.

    Args:
        folder: the dense model's.
    Raises:
        RecipeError, AttributeError, LookupError: see `forecast.sizes_of`.
    """
    is_half = stored_model.stored_dtype(folder, recipe.model.dtype) != "float32"
    return Rules(recipe, stored_model.plain_config(folder), sizes_of(recipe, folder), 2 if is_half else 4)


def peak_bytes(items: Items) -> int:
    """All that takes memory at the peak, together."""
    return sum(items.values())


def refusal(rules: Rules, stages: Iterable[Stage], limit_bytes: int) -> str | None:
    """Why the stages cannot run in so much memory, and what to change; None if they fit.

    Args:
        stages: those that are to be computed.
        limit_bytes: memory of the device that computes.
    """
    worst = max(stages, key=lambda stage: peak_bytes(rules.items(stage)), default=None)
    if worst is None or peak_bytes(items := rules.items(worst)) <= limit_bytes:
        return None
    largest = sorted(items.items(), key=lambda item: -item[1])[:LARGEST_ITEMS]
    named = ", ".join(f"{name} {_shown(size_bytes)}" for name, size_bytes in largest)
    device = "GPU" if rules.recipe.resources.gpus else "node"
    return (
        f"the {' '.join(part for part in worst if part)} stage needs about {_shown(peak_bytes(items))} ({named}) and "
        f"the {device} has {_shown(limit_bytes)}; {_advice(rules, worst, limit_bytes, device)}"
    )


def relief(stage: StageName, recipe: Recipe) -> str:
    """The settings that save memory in a stage and that the recipe does not use yet, in words; not by how much."""
    unused: list[Change] = []
    for change in _changes(stage, recipe):
        taken = {field for each in unused for field in each}
        is_new = any(_value(recipe, field) != new for field, new in change.items())
        if is_new and not change.keys() & taken and _changed(recipe, change):
            unused.append(change)
    settings = ", ".join(
        " with ".join(f"{field}: {_written(value)}" for field, value in change.items()) for change in unused
    )
    device = "GPU" if recipe.resources.gpus else "node"
    told = f"any of these saves memory: {settings}; or " if settings else ""
    return f"{told}use a {device} with more memory (`dress plan` tells how much a recipe needs)"


def _value(recipe: Recipe, field: str) -> Any:
    """What a recipe says in a dotted field, as JSON has it."""
    found: Any = recipe.model_dump(mode="json")
    for name in field.split("."):
        found = found[name]
    return found


def _advice(rules: Rules, stage: Stage, limit_bytes: int, device: str) -> str:
    """The settings that help, taken up one after the other until the stage fits."""
    taken: Change = {}
    lighter = rules
    for change in _changes(stage[0], rules.recipe):
        tried = _with(lighter, change)
        before_bytes, after_bytes = (peak_bytes(each.items(stage)) for each in (lighter, tried))
        if after_bytes < (1 - WORTH_FRACTION) * before_bytes:
            lighter, taken = tried, {**taken, **change}
        if after_bytes <= limit_bytes:
            break
    settings = ", ".join(f"{field}: {_written(value)}" for field, value in taken.items())
    needed_bytes = peak_bytes(lighter.items(stage))
    if needed_bytes <= limit_bytes:
        return f"with {settings} it needs about {_shown(needed_bytes)}"
    even = f"even with {settings} it needs about {_shown(needed_bytes)}, so " if taken else ""
    return f"{even}use a {device} with more memory"


def _changes(stage: StageName, recipe: Recipe) -> Iterator[Change]:
    """What saves memory in this stage: first what only costs time, then what may cost quality."""
    if name := {"evaluate": "batch_size", "zero_shot": "tasks_batch_size"}.get(stage):
        yield from _halved(f"evaluate.{name}", getattr(recipe.evaluate, name))
    elif stage == "recover" and recipe.recover.kind != "none":
        yield from _training_changes("recover.training", recipe.recover.training)
        yield {"recover.distillation": 0.0}
    elif stage == "regularize" and recipe.method.kind == "dress":
        yield from _training_changes("method.training", recipe.method.training)
        yield {"method.distillation": 0.0, "method.stream_distillation": 0.0}  # either holds a teacher
    elif stage == "benchmark" and (form := recipe.speed_form()):
        asked = recipe.evaluate.speed
        settings = asked.model_dump(exclude_none=True) if isinstance(asked, SpeedSettings) else {}
        size = form.batch_size
        while (size := size // 2) > 0:
            yield {"evaluate.speed": {**settings, "batch_size": size}}
        yield {"evaluate.speed": False}  # the models are held together, and their weights do not shrink
    elif stage == "regularize" and recipe.method.kind == "llm_surgeon":
        yield from _halved("method.batch_size", recipe.method.batch_size)
    elif stage in ("covariance", "basis"):
        if stage == "basis":
            yield from _smaller_batches(recipe)
        yield {"data.sequence_length": 512}


def _smaller_batches(recipe: Recipe) -> Iterator[Change]:
    """Of the basis stage."""
    if recipe.method.kind == "sleb" or recipe.method.kind == "slicegpt":
        yield from _halved("method.batch_size", recipe.method.batch_size)
    elif recipe.method.kind == "dress":
        yield from _halved("method.training.batch_size", recipe.method.training.batch_size)


def _halved(field: str, size: int) -> Iterator[Change]:
    while (size := size // 2) > 0:
        yield {field: size}


def _training_changes(field: str, settings: TrainingSettings) -> Iterator[Change]:
    yield {f"{field}.activation_checkpointing": True}
    yield {f"{field}.loss_chunk_tokens": CHUNK_TOKENS}
    parts = settings.accumulation_steps
    while (parts := parts * 2) <= settings.batch_size:
        yield {f"{field}.accumulation_steps": parts}
    yield {f"{field}.optimizer": "adamw_8bit"}
    yield {f"{field}.step_in_backward": True, f"{field}.clip_norm": None}
    yield {f"{field}.weights": "bfloat16"}


def _with(rules: Rules, change: Change) -> Rules:
    """The rules for a changed recipe; for the same where the change does not go with its other settings."""
    changed = _changed(rules.recipe, change)
    return rules if changed is None else replace(rules, recipe=changed)


def _changed(recipe: Recipe, change: Change) -> Recipe | None:
    """The recipe with a change; None where that does not go with its other settings."""
    plain = recipe.model_dump(mode="json")
    for field, value in change.items():
        *sections, name = field.split(".")
        place = plain
        for section in sections:
            place = place[section]
        place[name] = value
    try:
        return Recipe.model_validate(plain)
    except ValidationError:
        return None


def _written(value: Any) -> str:
    """As YAML has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _shown(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / 2**20:.1f} MiB"
