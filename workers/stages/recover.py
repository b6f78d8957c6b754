"""Recover what the cut cost: low-rank adapters merged afterwards (the paper's RFT), or all parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from workers import checkpoints
from workers.contracts.training import RecoverInFull, RecoverWithLora
from workers.stages.outcome import Outcome, StageRun, training_events
from workers.training import language_modelling, train
from workers.workbench import Workbench


def recover(bench: Workbench, key: str, pruned: Path, settings: RecoverWithLora | RecoverInFull) -> StageRun:
    """Leaves the recovered model, of the pruned model's shape."""
    seed = bench.recipe.seed
    model = checkpoints.load_model(pruned, torch.float32, bench.device)
    keeper = checkpoints.TrainingCheckpoints(
        bench.store, key, bench.workspace, bench.recipe.resources.checkpoint_every_steps
    )
    keeper.found()
    trained = _with_adapters(model, settings, seed) if isinstance(settings, RecoverWithLora) else model
    steps = train(
        trained, bench.recover_sequences, settings.training, language_modelling(trained), seed=seed, keeper=keeper
    )
    yield from training_events("recover", steps)
    if isinstance(settings, RecoverWithLora):
        model = trained.merge_and_unload()
    folder = bench.new_folder(key)
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), bench.export_dtype, folder)
    checkpoints.copy_companions(pruned, folder)
    return Outcome(folder)


def _with_adapters(model: PreTrainedModel, settings: RecoverWithLora, seed: int) -> PreTrainedModel:
    """The model frozen, with a trainable adapter on every linear layer of its blocks (the head stays as it is)."""
    torch.manual_seed(seed)
    adapters = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters)
