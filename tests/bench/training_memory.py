"""What training takes at its highest, measured and predicted: each setting in a fresh process, two steps long.

`make bench` runs this. On a CPU the measured figure is the resident size at its highest above what Python and its
libraries took when they had trained a tiny model; on a GPU it is the allocator's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from workers.contracts.recipe import Recipe
from workers.contracts.training import TrainingSettings
from workers.high_water import measured_peak
from workers.planning.forecast import Size
from workers.planning.peaks import Rules
from workers.training.loop import train
from workers.training.objectives import language_modelling

EARLY = {"step_in_backward": True, "clip_norm": None}
UNTAUGHT = {"distillation": 0.0, "stream_distillation": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adamw_8bit": {"optimizer": "adamw_8bit"},
    "step_in_backward": EARLY,
    "activation_checkpointing": {"activation_checkpointing": True},
    "loss_chunk_tokens: 128": {"loss_chunk_tokens": 128},
    "accumulation_steps: 4": {"accumulation_steps": 4},
    "8-bit, bfloat16, in backward": {"optimizer": "adamw_8bit", "weights": "bfloat16", **EARLY},
    "all of them": {
        **{"optimizer": "adamw_8bit", "weights": "bfloat16", "activation_checkpointing": True},
        **{"loss_chunk_tokens": 128, **EARLY},
    },
}
SHAPES = {  # hidden size, FFN, layers, vocabulary
    17: (320, 880, 8, 8192),
    100: (768, 2048, 10, 16_384),
}
MIB = 2**20


def trained(config: LlamaConfig, sequences: torch.Tensor, settings: TrainingSettings, device: torch.device) -> int:
    """Make a random model and train it; the number of its parameters."""
    held = getattr(torch, settings.weights)  # as an attempt loads it: no float32 copy comes first
    model = AutoModelForCausalLM.from_config(config, dtype=held).to(device)
    objective = language_modelling(model, chunk_tokens=settings.loss_chunk_tokens)
    for _ in train(model, sequences, settings, objective, seed=0):
        pass
    return sum(weight.numel() for weight in model.parameters())


def measure(name: str, options: argparse.Namespace) -> None:
    """Print the line of one setting."""
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hidden, ffn, layers, vocabulary = SHAPES[options.millions]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=options.length,
    )
    training = {"learning_rate": 1e-4, "batch_size": options.batch, **SETTINGS[name]}
    recipe = Recipe.model_validate(
        {
            "model": {"source": "random"},
            "method": {"kind": "dress", "ratio": 0.5, **UNTAUGHT, "training": training},
            "data": {"sequence_length": options.length},
            "resources": {"gpus": int(device.type == "cuda")},
        }
    )
    sequences = torch.randint(vocabulary, (2 * options.batch, options.length))
    tiny = LlamaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64)
    trained(tiny, sequences[:, :32] % 64, recipe.method.training, device)
    with measured_peak(device) as peak:
        parameters = trained(config, sequences, recipe.method.training, device)
    size = Size(parameters, hidden)
    items = Rules(recipe, config, {"dense": size, "pruned": size}, 4).items(("regularize", None))
    if peak.bytes is None:
        raise SystemExit("this system does not tell a process's highest resident size")
    taken, told = peak.bytes - peak.before_bytes, sum(items.values())
    print(
        f"  {name:29} measured {taken / MIB:7,.0f} MiB  predicted {told / MIB:7,.0f} MiB  error "
        f"{told / taken - 1:+.0%}   before {peak.before_bytes / MIB:,.0f} MiB",
        flush=True,
    )


def main() -> None:
    """Measure one setting here, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, choices=sorted(SHAPES), default=17, help="parameters")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--setting", choices=SETTINGS)
    options = parser.parse_args()
    if options.setting:
        measure(options.setting, options)
        return
    print(f"peak of two steps, {options.millions} million parameters, {options.batch} x {options.length} tokens")
    for name in SETTINGS:
        command = [sys.executable, __file__, "--setting", name]
        for option in ("millions", "batch", "length", "threads"):
            command += [f"--{option}", str(getattr(options, option))]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)})


if __name__ == "__main__":
    main()
