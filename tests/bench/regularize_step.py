"""What a training step costs: with each regularizer and each way of saving memory, in turns in one process.

`make bench` runs this. Aim: a step with the penalty takes at most 1.05 times a step without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from workers.contracts.training import TrainingSettings
from workers.models.family import family_of
from workers.pruning.elastic import ElasticWidths
from workers.pruning.groups import Annealing, Penalty, Proximal, RemovedPart
from workers.training.loop import Rider, Step, train
from workers.training.objectives import distillation, language_modelling

WARM_UP = 3
PLAIN = "plain"
RIDERS: dict[str, Callable[[RemovedPart], Rider]] = {
    "penalty, l2": lambda removed: Penalty(removed, "l2", 1e-3),
    "penalty, l1": lambda removed: Penalty(removed, "l1", 1e-3),
    "anneal": lambda removed: Annealing(removed, steps_to_zero=50),
    "proximal": lambda removed: Proximal(removed, 4.0, 50, removed.group_sizes()),
    "elastic": lambda removed: ElasticWidths((removed.kept, 2 * removed.kept), 2 * removed.kept, seed=0, centred=False),
}
EARLY = {"step_in_backward": True, "clip_norm": None}
OPTIONS: dict[str, dict[str, Any]] = {
    "accumulation_steps: 4": {"accumulation_steps": 4},
    "activation_checkpointing": {"activation_checkpointing": True},
    "loss_chunk_tokens: 128": {"loss_chunk_tokens": 128},
    "step_in_backward": EARLY,
    "optimizer: adamw_8bit": {"optimizer": "adamw_8bit"},
    "weights: bfloat16": {"weights": "bfloat16"},
    "precision: bfloat16": {"precision": "bfloat16"},
}
DISTILLATION = "distillation: 0.5"


def model_of(width: int) -> PreTrainedModel:
    """A random Llama, 6.8 million parameters at a width of 256."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=width,
            intermediate_size=width * 11 // 4,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=8,
        )
    )


def trainer(name: str, options: argparse.Namespace) -> Iterator[Step]:
    """A training run of its own, to be taken a step at a time."""
    model = model_of(options.width)
    family = family_of(model.config)
    sequences = torch.randint(4096, ((options.rounds + WARM_UP) * options.batch, options.length))
    settings = TrainingSettings(learning_rate=5e-4, batch_size=options.batch).model_dump() | OPTIONS.get(name, {})
    training = TrainingSettings.model_validate(settings)
    rider = RIDERS[name](RemovedPart(model, family, options.width // 2)) if name in RIDERS else None
    if name == DISTILLATION:
        objective = distillation(model, deepcopy(model).eval().requires_grad_(False), 0.5)
    else:
        objective = language_modelling(model, chunk_tokens=training.loss_chunk_tokens)
    with rider.riding(model, family) if isinstance(rider, ElasticWidths) else nullcontext():
        yield from train(model, sequences, training, objective, seed=0, rider=rider)


def main() -> None:
    """Print the median step of each, and its ratio to the plain step round by round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainers = {name: trainer(name, options) for name in (PLAIN, *RIDERS, *OPTIONS, DISTILLATION)}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(options.rounds + WARM_UP):
        for name, steps in trainers.items():
            started = time.perf_counter()
            next(steps)
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    plain = seconds[PLAIN]
    print(f"{options.rounds} rounds, width {options.width}, {options.batch} x {options.length} tokens, half pruned")
    for name, taken in seconds.items():
        ratios = sorted(one / other for one, other in zip(taken, plain, strict=True))
        low, middle, high = (ratios[len(ratios) * part // 100] for part in (10, 50, 90))
        spread = f"(p10 {low:.3f}, p90 {high:.3f})"
        print(f"  {name:25} median {statistics.median(taken):.4f} s   ratio {middle:.3f}  {spread}")


if __name__ == "__main__":
    main()
