"""Cut the regularized model, and measure what the cut itself changed."""

from __future__ import annotations

from pathlib import Path

import torch

from workers import checkpoints
from workers.contracts.events import Notice
from workers.pruning.method import method_of
from workers.stages.basis import load_basis
from workers.stages.outcome import Outcome, StageRun
from workers.workbench import Workbench

PROBE_TOKENS = 256
"""Length of the one sequence on which the cut model is compared with the zeroed one."""


def prune(bench: Workbench, key: str, regularized: Path, prepared: Path | None) -> StageRun:
    """Leaves the narrower model, as stock transformers loads it."""
    settings = bench.recipe.method
    method = method_of(settings)
    found = load_basis(prepared)
    model = checkpoints.load_model(regularized, torch.float32, bench.device)
    trained = _probe(bench, model)
    narrowed = method.cut(settings, bench.family, model, found)
    folder = bench.new_folder(key)
    checkpoints.save_weights(narrowed.config, narrowed.weights, bench.export_dtype, folder)
    checkpoints.copy_companions(regularized, folder)
    method.zero(settings, bench.family, model, found)
    zeroed = _probe(bench, model)
    del model, narrowed
    cut = _probe(bench, checkpoints.load_model(folder, torch.float32, bench.device))
    changes = {"zeroing": _furthest(trained, zeroed), "cutting": _furthest(zeroed, cut)}
    stored = str(bench.export_dtype).removeprefix("torch.")
    rounded = "" if stored == "float32" else f" (its rounding to {stored} included)"
    yield Notice(message=method.cut_in_words.format_map(changes) + rounded)
    return Outcome(folder)


def _furthest(one: torch.Tensor, other: torch.Tensor) -> str:
    """The largest change of a logit, for a person to read."""
    return f"{(one - other).abs().max().item():.3g}"


@torch.no_grad()
def _probe(bench: Workbench, model: torch.nn.Module) -> torch.Tensor:
    """Logits [1, tokens, vocabulary] on a fixed random sequence, in float32."""
    length = min(PROBE_TOKENS, bench.sequence_length)
    random = torch.Generator().manual_seed(bench.recipe.seed)
    ids = torch.randint(bench.config.vocab_size, (1, length), generator=random).to(bench.device)
    return model.eval()(input_ids=ids, use_cache=False).logits.float()
