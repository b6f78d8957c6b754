"""Look at the dense model once for all ratios: what its stream carries, and what the loss is sensitive to."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from workers import checkpoints
from workers.pruning.basis import StreamStatistics
from workers.pruning.dress import look
from workers.stages.outcome import Outcome, StageRun
from workers.workbench import Workbench

FILE = "covariance.safetensors"


def covariance(bench: Workbench, key: str) -> StageRun:
    """Leaves the covariances that the basis stage starts from; DReSS alone has them, and the model stays as it is."""
    yield from ()
    recipe = bench.recipe
    assert recipe.method.kind == "dress"  # noqa: S101  no other method plans this stage
    model = checkpoints.load_model(bench.dense_folder, torch.float32, bench.device)
    found = look(recipe.method, bench.family, model, bench.regularize_sequences, recipe.seed)
    folder = bench.new_folder(key)
    save_file({"activation": found.activation, "gradient": found.gradient}, folder / FILE)
    return Outcome(folder)


def load_covariance(folder: Path | None) -> StreamStatistics | None:
    """What the stage left; none if it did not run."""
    return None if folder is None else StreamStatistics(**load_file(folder / FILE))
