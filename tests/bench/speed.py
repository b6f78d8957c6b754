"""How near smaller models come to the speed that their size allows: the benchmark stage on Llamas of falling width.

`make bench` runs this. Measured quotients to the dense model stand beside those of arithmetic alone; the nearer, the
less of the time goes into anything but reading weights (generation) and multiplying them (prompt).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Speed, Subject, Workload
from workers.local_store import LocalStore
from workers.stages.benchmark import benchmark
from workers.workbench import Workbench

MIB = 2**20
KEPT: dict[Subject, float] = {"dense": 1.0, "pruned": 0.75, "recovered": 0.5}
"""Share of the width by the stage's names for its models."""


def save_model(folder: Path, options: argparse.Namespace, kept: float) -> Path:
    """A random Llama with this share of the width; heads and FFN stay, as after a cut."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=int(kept * options.width),
        intermediate_size=options.width * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=options.width // 64,
        head_dim=64,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).to(getattr(torch, options.dtype)).save_pretrained(folder)
    return folder


def measured(options: argparse.Namespace, folder: Path) -> dict[Subject, Measurement]:
    """What the stage says of the models."""
    folders = {subject: save_model(folder / subject, options, kept) for subject, kept in KEPT.items()}
    text = folder / "text.txt"
    text.write_text("No token of this is read.\n", encoding="utf-8")
    asked = {"batch_size": options.batch, "new_tokens": options.new, "rounds": options.rounds}
    asked |= {"prompt_tokens": options.prompt, "prompt_rounds": options.prompt_rounds}
    recipe = Recipe.model_validate(
        {
            "model": {"source": str(folders["dense"])},
            "method": {"kind": "dress", "ratio": 0.5},
            "data": {"name": "text", "path": str(text), "samples": 4},
            "evaluate": {"perplexity": [], "speed": {name: value for name, value in asked.items() if value}},
            "resources": {"gpus": int(torch.cuda.is_available()), "cpus": options.threads},
        }
    )
    (folder / "workspace").mkdir()
    steps = benchmark(Workbench(recipe, LocalStore(folder / "store"), folder / "workspace", Places()), folders)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value.measurements


def line(width: int, kind: str, rate: float, work: Workload) -> str:
    """One model's figures of one kind of work."""
    told = f"  {kind:10} width {width:5}  {rate:10,.0f} tokens/s  peak {(work.peak_bytes or 0) / MIB:8,.1f} MiB"
    if work.ratio is None or work.ideal_ratio is None:
        return told
    spread = f"{work.ratio.median:.2f} times dense (p10 {work.ratio.p10:.2f}, p90 {work.ratio.p90:.2f})"
    return f"{told}  {spread}, by arithmetic {work.ideal_ratio:.2f}"


def main() -> None:
    """Print both kinds of work for each width."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("width", 512), ("layers", 4), ("vocabulary", 4096), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("batch", "new", "rounds", "prompt", "prompt-rounds"):
        parser.add_argument(f"--{name}", type=int, help="what suits the device if left out")
    parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
    options = parser.parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        speeds = {name: each.speed for name, each in measured(options, Path(folder)).items()}
    widths = {name: int(kept * options.width) for name, kept in KEPT.items()}
    dense = speeds["dense"]
    if not isinstance(dense, Speed):
        raise SystemExit("the stage measured no speed")
    print(
        f"{dense.batch_size} x {dense.new_tokens} tokens generated, {dense.rounds} rounds; a prompt of "
        f"{dense.prompt_tokens} tokens; {dense.arithmetic}, {dense.attention}, {dense.threads} threads, {dense.machine}"
    )
    for name, speed in speeds.items():
        if speed and speed.generation:
            print(line(widths[name], "generation", speed.generation_tokens_per_second, speed.generation))
    for name, speed in speeds.items():
        if speed and speed.prompt and speed.prompt_tokens_per_second:
            print(line(widths[name], "prompt", speed.prompt_tokens_per_second, speed.prompt))


if __name__ == "__main__":
    main()
