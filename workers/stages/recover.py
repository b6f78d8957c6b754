"""Recover what the cut cost: low-rank adapters merged afterwards (the paper's RFT), or all parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from workers import checkpoints
from workers.contracts.training import RecoverInFull, RecoverWithLora
from workers.pruning.method import method_of
from workers.stages.outcome import Outcome, StageRun, training_events
from workers.stages.record import Record
from workers.stages.rungs import at_rungs
from workers.training.adapters import with_adapters
from workers.training.checkpoints import TrainingCheckpoints
from workers.training.loop import train
from workers.training.objectives import Objective, Parts, distillation, language_modelling
from workers.training.zeros import ZerosKept
from workers.workbench import Workbench


def recover(bench: Workbench, key: str, pruned: Path) -> StageRun:
    """Leaves the recovered model, of the pruned model's shape. Zeros of a method that leaves them stay."""
    settings, seed = bench.recipe.recover, bench.recipe.seed
    assert settings.kind != "none"  # noqa: S101  then no recovery is planned
    model = checkpoints.load_model(pruned, getattr(torch, settings.training.weights), bench.device)
    keeper = TrainingCheckpoints(bench.store, key, bench.workspace, bench.recipe.resources)
    keeper.found()
    trained = with_adapters(model, settings, seed) if isinstance(settings, RecoverWithLora) else model
    parts: Parts = {}
    objective = _objective(bench, settings, trained, parts)
    record = Record("recover")
    training = settings.training.at_width(bench.config.hidden_size)
    rider = ZerosKept(trained) if method_of(bench.recipe.method).leaves_zeros else None
    steps = train(
        trained, bench.recover_sequences, training, objective, seed=seed, rider=rider, keeper=keeper, parts=parts
    )
    reports = at_rungs(bench, "recover", trained, training, keeper.extra)
    yield from training_events("recover", record.following(reports.following(steps) if reports else steps))
    if isinstance(settings, RecoverWithLora):
        model = trained.merge_and_unload()
    folder = bench.new_folder(key)
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), bench.export_dtype, folder)
    checkpoints.copy_companions(pruned, folder)
    record.write(folder)
    return Outcome(folder)


def _objective(
    bench: Workbench, settings: RecoverWithLora | RecoverInFull, model: nn.Module, parts: Parts
) -> Objective:
    """Cross-entropy, mixed with the divergence to the dense model if the recipe asks for it: `parts` then has both."""
    chunk = settings.training.loss_chunk_tokens
    if settings.distillation == 0:
        return language_modelling(model, chunk_tokens=chunk)
    teacher = checkpoints.load_teacher(bench.dense_folder, bench.device)
    return distillation(model, teacher, settings.distillation, chunk_tokens=chunk, parts=parts)
