"""Train the dense model so that the channels which will go may be cut (DReSS Algorithm 1, the loop)."""

from __future__ import annotations

import torch

from workers import checkpoints
from workers.pruning.method import Regularization, method_of
from workers.stages.outcome import Outcome, StageRun, training_events
from workers.workbench import Workbench


def regularize(bench: Workbench, key: str) -> StageRun:
    """Leaves the regularized model in its full width."""
    recipe = bench.recipe
    method = method_of(recipe.method)
    sequences = bench.regularize_sequences
    model = checkpoints.load_model(bench.dense_folder, torch.float32, bench.device)
    keeper = checkpoints.TrainingCheckpoints(bench.store, key, bench.workspace, recipe.resources.checkpoint_every_steps)
    resumed = keeper.found() is not None
    task = Regularization(model, sequences, recipe.seed, keeper, resumed, keeper.extra)
    yield from training_events("regularize", method.regularize(recipe.method, bench.family, task))
    folder = bench.new_folder(key)
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), bench.export_dtype, folder)
    checkpoints.copy_companions(bench.dense_folder, folder)
    return Outcome(folder)
