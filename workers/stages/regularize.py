"""Train the dense model so that the channels which will go may be cut (DReSS Algorithm 1, the loop)."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from workers import checkpoints
from workers.pruning.method import Regularization, method_of
from workers.stages.basis import load_basis
from workers.stages.outcome import Outcome, StageRun, training_events
from workers.stages.record import RECORDS, Record
from workers.stages.rungs import at_rungs
from workers.training.checkpoints import TrainingCheckpoints
from workers.workbench import Workbench

PRESERVED = f"{RECORDS}/preserved_ratios.json"
"""The data of the paper's Figure 3, beside the weights."""


def regularize(bench: Workbench, key: str, prepared: Path | None) -> StageRun:
    """Leaves the regularized model in its full width."""
    recipe = bench.recipe
    method = method_of(recipe.method)
    held = recipe.method.training.weights if recipe.method.kind == "dress" else "float32"
    model = checkpoints.load_model(bench.dense_folder, getattr(torch, held), bench.device)
    keeper = TrainingCheckpoints(bench.store, key, bench.workspace, recipe.resources)
    resumed = keeper.found() is not None
    task = Regularization(
        model=model,
        dense_folder=bench.dense_folder,
        prepared=load_basis(prepared),
        sequences=bench.regularize_sequences,
        seed=recipe.seed,
        keeper=keeper,
        resumed=resumed,
        extra=keeper.extra,
    )
    record = Record("regularize")
    reports = None
    if recipe.method.kind == "dress":
        reports = at_rungs(bench, "regularize", model, recipe.method.training, keeper.extra)
    steps = method.regularize(recipe.method, bench.family, task)
    yield from training_events("regularize", record.following(reports.following(steps) if reports else steps))
    folder = bench.new_folder(key)
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), bench.export_dtype, folder)
    checkpoints.copy_companions(bench.dense_folder, folder)
    record.write(folder)
    if task.record:
        (folder / RECORDS).mkdir(exist_ok=True)
        (folder / PRESERVED).write_text(json.dumps(task.record))
    return Outcome(folder)
