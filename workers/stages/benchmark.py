"""Measure generation speed of the dense and the smaller models, in turns, so that drift hits all alike."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workers import checkpoints
from workers.contracts.events import Progress
from workers.contracts.results import Measurement, Speed, Subject
from workers.stages.evaluate import arithmetic
from workers.stages.outcome import Outcome, StageRun
from workers.workbench import Workbench

ON_GPU = {"batch_size": 64, "new_tokens": 128, "rounds": 10}
"""As SLEB measures (METHOD §7)."""
ON_CPU = {"batch_size": 8, "new_tokens": 32, "rounds": 5}
"""Smaller, since a CPU takes minutes for the above; the result says so."""


def benchmark(bench: Workbench, folders: dict[Subject, Path]) -> StageRun:
    """Tokens per second of greedy generation with the KV cache, exactly `new_tokens` from one-token prompts."""
    form = ON_GPU if bench.device.type == "cuda" else ON_CPU
    models = {
        subject: checkpoints.load_model(folder, bench.export_dtype, bench.device).to(arithmetic(bench)).eval()
        for subject, folder in folders.items()
    }
    random = torch.Generator().manual_seed(bench.recipe.seed)
    prompts = torch.randint(bench.config.vocab_size, (form["batch_size"], 1), generator=random).to(bench.device)
    rates: dict[Subject, list[float]] = {subject: [] for subject in models}
    for done in range(form["rounds"] + 1):
        for subject, model in models.items():
            seconds = _generation_seconds(model, prompts, form["new_tokens"])
            if done > 0:  # the first round warms up
                rates[subject].append(prompts.numel() * form["new_tokens"] / seconds)
        yield Progress(stage="benchmark", step=done, steps=form["rounds"])
    return Outcome(measurements={subject: Measurement(speed=_speed(rates[subject], bench, form)) for subject in models})


@torch.no_grad()
def _generation_seconds(model: PreTrainedModel, prompts: Tensor, new_tokens: int) -> float:
    if prompts.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    if prompts.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _speed(rates: list[float], bench: Workbench, form: dict[str, int]) -> Speed:
    return Speed(
        generation_tokens_per_second=statistics.median(rates),
        slowest=min(rates),
        fastest=max(rates),
        threads=bench.recipe.resources.cpus,
        device=str(bench.device),
        **form,
    )
