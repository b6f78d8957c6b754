"""What cutting and exporting cost: time against copying the files that come out, memory against the model's size.

`make bench` runs this. Aims: at most twice a copy, and at most a quarter of the model's bytes beside the model.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from workers import checkpoints, stored_model
from workers.models.family import family_of
from workers.models.width import Width
from workers.pruning.cut import cut_weights


def model_of(width: int) -> PreTrainedModel:
    """A random Llama, 109 million parameters at a width of 768."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16_384,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=12,
        )
    )


def peak_bytes(work: Callable[[], object]) -> int:
    """By how much the process's memory grew at most while the work ran; Linux keeps the high-water mark."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before counts as growth when it is used again
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is held now
    before = status_bytes("VmRSS")
    work()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def synced(folder: Path) -> None:
    """Wait until the folder's files are on disk."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def main() -> None:
    """Print both ratios for each element type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = model_of(options.width)
    family, width = family_of(model.config), Width(round((1 - options.ratio) * options.width / 12) * 12)
    held_bytes = sum(weight.nbytes for weight in model.parameters())
    print(f"{model.num_parameters():,} parameters, {held_bytes / 1e6:.0f} MB held, cut to width {width.channels}")
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as place:
            cut, copy = Path(place, "cut"), Path(place, "copy")

            def export(folder: Path = cut, dtype: torch.dtype = dtype) -> None:
                config, weights = cut_weights(model, family, width, True)
                checkpoints.save_weights(config, weights, dtype, folder)
                synced(folder)

            def duplicate(source: Path = cut, target: Path = copy) -> None:
                target.mkdir(exist_ok=True)
                for file in source.iterdir():
                    with file.open("rb") as origin, (target / file.name).open("wb") as stream:
                        shutil.copyfileobj(origin, stream, 1 << 20)
                synced(target)

            export()
            pairs = [(seconds(export), seconds(duplicate)) for _ in range(options.rounds)]
            grown = peak_bytes(export)
            ratio = statistics.median(one / other for one, other in pairs)
            print(
                f"  {str(dtype).removeprefix('torch.'):8}  {stored_model.stored_bytes(cut) / 1e6:.0f} MB written in "
                f"{statistics.median(one for one, _ in pairs):.2f} s, {ratio:.2f} times a copy; "
                f"{grown / held_bytes:.3f} of the model's bytes held besides"
            )


if __name__ == "__main__":
    main()
