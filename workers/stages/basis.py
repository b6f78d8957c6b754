"""Find the basis in which channels are removed: axes, or an order of the channels as they stand."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers import checkpoints
from workers.pruning.method import Preparation, method_of
from workers.stages.covariance import load_covariance
from workers.stages.outcome import Outcome, StageRun, training_events
from workers.stages.record import Record
from workers.training.checkpoints import TrainingCheckpoints
from workers.training.loop import Step
from workers.workbench import Workbench

FILE = "basis.safetensors"


def basis(bench: Workbench, key: str, looked: Path | None) -> StageRun:
    """Leaves the tensors that the regularize stage starts from; the model stays as it is.

    Args:
        looked: what the covariance stage left, if it ran.
    """
    recipe = bench.recipe
    model = checkpoints.load_model(bench.dense_folder, torch.float32, bench.device)
    keeper = TrainingCheckpoints(bench.store, key, bench.workspace, recipe.resources)
    keeper.found()
    task = Preparation(model, bench.regularize_sequences, recipe.seed, keeper, load_covariance(looked))
    found: dict[str, Tensor] = {}

    def steps() -> Generator[Step, None, None]:
        found.update((yield from method_of(recipe.method).prepare(recipe.method, bench.family, task)))

    record = Record("basis")
    yield from training_events("basis", record.following(steps()))
    folder = bench.new_folder(key)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / FILE)
    record.write(folder)
    return Outcome(folder)


def load_basis(folder: Path | None) -> dict[str, Tensor]:
    """The tensors that the stage left; none if it did not run."""
    return {} if folder is None else load_file(folder / FILE)
