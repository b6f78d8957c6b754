"""A pipeline without torch whose figures follow from the recipe: rungs, files and faults for tests of searches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.contracts.events import (
    ArtifactStored,
    Event,
    Failed,
    Progress,
    StageFinished,
    StageStarted,
    Succeeded,
)
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results, StoredFile
from workers.contracts.store import ArtifactStore

STEPS = 20


def loss(recipe: Recipe, fraction: float = 1.0) -> float:
    """Least at a strength of 1e-3 and a small ratio; falls while training."""
    method = recipe.method
    distance = (math.log10(getattr(method, "strength", 1e-3)) + 3) ** 2
    return 2.0 + 0.2 * distance + getattr(method, "ratio", 0.0) + (1 - fraction)


def measured(recipe: Recipe) -> Results:
    ratio = getattr(recipe.method, "ratio", 0.0)
    dense = Measurement(parameters=1000, perplexity={"wikitext2": 5.0})
    recovered = Measurement(parameters=round(1000 * (1 - ratio)), perplexity={"wikitext2": math.exp(loss(recipe))})
    return Results(dense=dense, pruned=recovered, recovered=recovered)


def run(
    recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str, rungs: Sequence[float] = ()
) -> Iterator[Event]:
    """`seed` 13 fails by the recipe's fault."""
    if recipe.seed == 13:
        yield Failed(fault="recipe", code="invalid_recipe", message="seed: 13 is unlucky")
        return
    yield StageStarted(stage="evaluate", subject="dense", key="d" * 64, index=0, count=2)
    yield StageFinished(stage="evaluate", subject="dense", key="d" * 64, seconds=0.0, reused=True, cost_seconds=3.0)
    yield StageStarted(stage="regularize", key="r" * 64, index=1, count=2)
    told = 0
    for step in range(1, STEPS + 1):
        yield Progress(stage="regularize", step=step, steps=STEPS, metrics={"loss": loss(recipe, step / STEPS)})
        while told < len(rungs) and step / STEPS >= rungs[told] - 1e-9:
            figures = {"cut_loss": loss(recipe, rungs[told]), "training_fraction": rungs[told]}
            yield Progress(stage="regularize", step=step, steps=STEPS, metrics=figures)
            told += 1
    yield StageFinished(stage="regularize", key="r" * 64, seconds=0.1, reused=False, cost_seconds=0.1)
    yield ArtifactStored(files=[StoredFile(path="model/config.json", sha256="c" * 64, size_bytes=2)])
    yield Succeeded(results=measured(recipe))
