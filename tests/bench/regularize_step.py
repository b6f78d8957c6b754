"""What regularizing costs: training steps with each regularizer and without, in turns in one process.

`make bench` runs this. Aim: a step with the penalty takes at most 1.05 times a step without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from workers.contracts.training import TrainingSettings
from workers.models.family import family_of
from workers.pruning.groups import Annealing, Penalty, Regularizer, RemovedPart
from workers.training import Step, language_modelling, train

WARM_UP = 3
RIDERS: dict[str, Callable[[RemovedPart], Regularizer | None]] = {
    "no regularizer": lambda _removed: None,
    "penalty, l2": lambda removed: Penalty(removed, "l2", 1e-3),
    "penalty, l1": lambda removed: Penalty(removed, "l1", 1e-3),
    "annealing": lambda removed: Annealing(removed, steps_to_zero=50),
}


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


def trainer(make: Callable[[RemovedPart], Regularizer | None], options: argparse.Namespace) -> Iterator[Step]:
    """A training run of its own, to be taken a step at a time."""
    model = model_of(options.width)
    removed = RemovedPart(model, family_of(model.config), options.width // 2)
    sequences = torch.randint(4096, ((options.rounds + WARM_UP) * options.batch, options.length))
    settings = TrainingSettings(batch_size=options.batch)
    return train(model, sequences, settings, language_modelling(model), seed=0, rider=make(removed))


def main() -> None:
    """Print the median step of each, and its ratio to the plain step round by round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainers = {name: trainer(make, options) for name, make in RIDERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(options.rounds + WARM_UP):
        for name, steps in trainers.items():
            started = time.perf_counter()
            next(steps)
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    plain = seconds["no regularizer"]
    print(f"{options.rounds} rounds, width {options.width}, {options.batch} x {options.length} tokens, half pruned")
    for name, taken in seconds.items():
        ratios = sorted(one / other for one, other in zip(taken, plain, strict=True))
        low, middle, high = (ratios[len(ratios) * part // 100] for part in (10, 50, 90))
        spread = f"(p10 {low:.3f}, p90 {high:.3f})"
        print(f"  {name:15} median {statistics.median(taken):.4f} s   ratio {middle:.3f}  {spread}")


if __name__ == "__main__":
    main()
