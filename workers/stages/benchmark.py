"""Measure time and memory of generation and of a long prompt, the models in turns, so that drift hits all alike.

Legend: B = batch size, n = new tokens, t = tokens of the prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from workers import checkpoints
from workers.allocations import growth_at_peak
from workers.contracts.events import Progress
from workers.contracts.results import Measurement, Speed, Subject, TimesAsFast, Workload
from workers.contracts.speed import SpeedForm, SpeedSettings
from workers.ideal import Work, held_bytes, outline, shapes_of
from workers.stages.evaluate import arithmetic
from workers.stages.outcome import Outcome, StageRun
from workers.workbench import Workbench, machine_type

Models = Mapping[Subject, PreTrainedModel]
Pass = Callable[[PreTrainedModel], None]
"""Does one pass of a kind of work."""


@dataclass(frozen=True)
class _Record:
    """What was measured of one kind of work."""

    seconds: dict[Subject, list[float]]
    """By round."""
    peak_bytes: dict[Subject, int]


def benchmark(bench: Workbench, folders: dict[Subject, Path]) -> StageRun:
    """Greedy generation with a cache, exactly n tokens from B one-token prompts, and one prompt of t tokens without it.

    As SLEB and the paper measure (METHOD §7). All models are held at once; each round takes them in another order.
    """
    settings = bench.recipe.evaluate.speed_settings or SpeedSettings()
    form = settings.form(bench.device.type == "cuda", getattr(bench.config, "max_position_embeddings", None))
    models = {subject: _loaded(bench, folder) for subject, folder in folders.items()}
    random = torch.Generator().manual_seed(bench.recipe.seed)
    starts = torch.randint(bench.config.vocab_size, (form.batch_size, 1), generator=random).to(bench.device)
    prompt = torch.randint(bench.config.vocab_size, (1, form.prompt_tokens), generator=random).to(bench.device)
    plan: list[tuple[Pass, int]] = [
        (lambda model: _generate(model, starts, form.new_tokens), form.rounds),
        (lambda model: _read(model, prompt), form.prompt_rounds),
    ]
    records, done = [], 0
    for work, rounds in plan:
        record = _Record({subject: [] for subject in models}, _peaks(models, work, bench.device))
        for number in range(rounds):
            for subject, seconds in _round(models, work, bench.device, number).items():
                record.seconds[subject].append(seconds)
            done += 1
            yield Progress(stage="benchmark", step=done, steps=form.rounds + form.prompt_rounds)
        records.append(record)
    return Outcome(measurements=_measurements(bench, form, models, *records))


def _loaded(bench: Workbench, folder: Path) -> PreTrainedModel:
    model = checkpoints.load_model(folder, bench.export_dtype, bench.device).to(arithmetic(bench)).eval()
    return as_asked(model)


def as_asked(model: PreTrainedModel) -> PreTrainedModel:
    """The model, made to generate as it is told, whatever its own generation config says of stopping and sampling."""
    model.generation_config = GenerationConfig()
    return model


def _generate(model: PreTrainedModel, starts: Tensor, new_tokens: int) -> None:
    """Token ids [B, 1] → [B, 1 + n]; without a stop token nothing ends earlier."""
    made = model.generate(
        starts,
        attention_mask=torch.ones_like(starts),
        max_new_tokens=new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    if made.shape[1] != 1 + new_tokens:
        raise RuntimeError(f"{made.shape[1] - 1} tokens were generated where {new_tokens} were asked for")


def _read(model: PreTrainedModel, prompt: Tensor) -> None:
    """Token ids [1, t] → the logits of all positions, dropped."""
    model(input_ids=prompt, use_cache=False)


def _peaks(models: Models, work: Pass, device: torch.device) -> dict[Subject, int]:
    """The most that tensors take with each model alone; the pass before it warms up and lets libraries settle."""
    peaks = {}
    for subject, model in models.items():
        with _as_users_run():
            work(model)
            with growth_at_peak(device) as growth:
                work(model)
        peaks[subject] = held_bytes(model) + growth.bytes
    return peaks


def _round(models: Models, work: Pass, device: torch.device, number: int) -> dict[Subject, float]:
    """Seconds of one pass of each model, begun with another model each round."""
    subjects = list(models)
    first = number % len(subjects)
    order = subjects[first:] + subjects[:first]
    with _as_users_run():
        timed = _device_seconds if device.type == "cuda" else _clock_seconds
        seconds = timed([partial(work, models[subject]) for subject in order])
    return dict(zip(order, seconds, strict=True))


def _device_seconds(passes: list[Callable[[], None]]) -> list[float]:
    """By the GPU's own marks; it is waited for once, at the end."""
    marks = []
    for work in passes:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        marks.append((start, stop))
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) / 1000 for start, stop in marks]


def _clock_seconds(passes: list[Callable[[], None]]) -> list[float]:
    seconds = []
    for work in passes:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


@contextmanager
def _as_users_run() -> Iterator[None]:
    """No gradients, and not the deterministic kernels of an attempt, which fill every new tensor before it is used."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns_only)


def _measurements(
    bench: Workbench, form: SpeedForm, models: Models, generation: _Record, prompt: _Record
) -> dict[Subject, Measurement]:
    shapes = {subject: shapes_of(model) for subject, model in models.items()}
    outlines = {subject: outline(model) for subject, model in models.items()}
    generating = {subject: each.generation(form.batch_size, form.new_tokens) for subject, each in shapes.items()}
    reading = {subject: each.prompt(form.prompt_tokens) for subject, each in shapes.items()}
    made = {}
    for subject, model in models.items():
        rates = [form.batch_size * form.new_tokens / seconds for seconds in generation.seconds[subject]]
        generated = _workload(subject, generation, generating, by_bytes=True)
        read = _workload(subject, prompt, reading, by_bytes=False)
        speed = Speed(
            generation_tokens_per_second=form.batch_size * form.new_tokens / generated.seconds,
            slowest=min(rates),
            fastest=max(rates),
            batch_size=form.batch_size,
            new_tokens=form.new_tokens,
            rounds=form.rounds,
            threads=bench.recipe.resources.cpus,
            device=str(bench.device),
            machine=machine_type(),
            arithmetic=str(arithmetic(bench)).removeprefix("torch."),
            attention=model.config._attn_implementation,
            prompt_tokens=form.prompt_tokens,
            prompt_tokens_per_second=form.prompt_tokens / read.seconds,
            generation=generated,
            prompt=read,
            same_shapes_as=[other for other in models if other != subject and outlines[other] == outlines[subject]],
        )
        made[subject] = Measurement(speed=speed)
    return made


def _workload(subject: Subject, record: _Record, works: Mapping[Subject, Work], by_bytes: bool) -> Workload:
    """`by_bytes`: what bounds the time is what is read; else it is the arithmetic."""
    seconds, work = record.seconds[subject], works[subject]
    bound = {each: made.read_bytes if by_bytes else made.operations for each, made in works.items()}
    is_dense = subject == "dense"
    return Workload(
        seconds=statistics.fmean(seconds),
        shortest_seconds=min(seconds),
        longest_seconds=max(seconds),
        rounds=len(seconds),
        ratio=None if is_dense else times_as_fast(record.seconds["dense"], seconds),
        ideal_ratio=None if is_dense else bound["dense"] / bound[subject],
        operations=work.operations,
        read_bytes=work.read_bytes,
        peak_bytes=record.peak_bytes[subject],
    )


def times_as_fast(dense: list[float], own: list[float]) -> TimesAsFast:
    """The quotients of the same rounds' seconds: what slows a whole round down cancels."""
    ratios = [one / other for one, other in zip(dense, own, strict=True)]
    tenths = statistics.quantiles(ratios, n=10, method="inclusive") if len(ratios) > 1 else ratios * 9
    return TimesAsFast(median=statistics.median(ratios), p10=tenths[0], p90=tenths[-1], rounds=len(ratios))
