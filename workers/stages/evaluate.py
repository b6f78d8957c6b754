"""Measure a model: size on disk, and perplexity by the protocol of METHOD §7, each text by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from workers import checkpoints, stored_model
from workers.contracts.events import Event, Progress
from workers.contracts.results import Measurement, PerplexityProtocol, Subject
from workers.datasets.dataset import Documents
from workers.errors import RecipeError
from workers.planning.plan import SIZES
from workers.pruning.method import method_of
from workers.stages.outcome import Outcome, StageRun
from workers.training.zeros import nonzero_parameters
from workers.workbench import Workbench

Figure = TypeVar("Figure")

LONGEST_WINDOW = 2048
"""L, in tokens, unless the recipe or the model's context says less."""


class Evaluation:
    """A `Meter` of sizes and perplexities. Dense and pruned models are measured alike, by their weights on disk."""

    def __init__(self, bench: Workbench, subject: Subject, folder: Callable[[], Path]) -> None:
        """`folder`: where the model lies; asked for when something is measured, since it may have to be fetched."""
        self._bench, self._subject, self._folder = bench, subject, folder

    def measure(self, part: str) -> StageRun:
        """The sizes, or the perplexity of the text of this key; see `windows` for errors."""
        if part == SIZES:
            return Outcome(measurements={self._subject: _sizes(self._bench, self._subject, self._folder())})
        text = self._bench.texts[part]
        figure, protocol = yield from _perplexity(self._bench, self._subject, self._model, part, text)
        measured = Measurement(perplexity={part: figure}, perplexity_protocol={part: protocol})
        return Outcome(measurements={self._subject: measured})

    def together(self, found: Mapping[str, Measurement]) -> Measurement:
        """See `Meter.together`; whoever measured a text may have called it otherwise."""
        texts = {part: each for part, each in found.items() if part != SIZES}
        if not texts:
            return found[SIZES]
        figures = Measurement(
            perplexity={part: _only(each.perplexity) for part, each in texts.items()},
            perplexity_protocol={part: _only(each.perplexity_protocol) for part, each in texts.items()},
        )
        return found[SIZES].merged(figures)

    @cached_property
    def _model(self) -> PreTrainedModel:
        bench = self._bench
        return checkpoints.load_model(self._folder(), bench.export_dtype, bench.device).to(arithmetic(bench)).eval()


def _only(figures: dict[str, Figure] | None) -> Figure:
    """The one figure of a measurement of one text."""
    (figure,) = (figures or {}).values()
    return figure


def _sizes(bench: Workbench, subject: Subject, folder: Path) -> Measurement:
    return Measurement(
        parameters=stored_model.count_parameters(folder),
        nonzero_parameters=_nonzero(bench, subject, folder),
        bytes=stored_model.stored_bytes(folder),
        hidden_size=checkpoints.load_config(folder).hidden_size,
        dtype=_name(bench.export_dtype),
        weights_digest=stored_model.weights_digest(folder),
    )


def _nonzero(bench: Workbench, subject: Subject, folder: Path) -> int | None:
    """See `Measurement.nonzero_parameters`. The dense model's figures are shared by all methods, so it has none."""
    if subject == "dense" or not method_of(bench.recipe.method).leaves_zeros:
        return None
    return nonzero_parameters(folder, bench.family, checkpoints.load_config(folder))


def arithmetic(bench: Workbench) -> torch.dtype:
    """Element type of the arithmetic: the stored one on a GPU; float32 on a CPU, which is slow or coarse below it."""
    return bench.export_dtype if bench.device.type == "cuda" else torch.float32


def windows(bench: Workbench, name: str, text: Documents) -> tuple[Tensor, int]:
    """The text's disjoint windows, token ids [N, L], and its length in tokens.

    Tokenized once, special tokens only at the very start; the tail that fills no window is dropped.

    Raises:
        RecipeError: the text is shorter than one window.
    """
    settings = bench.recipe.evaluate
    context = getattr(bench.config, "max_position_embeddings", LONGEST_WINDOW)
    length = settings.sequence_length or min(LONGEST_WINDOW, context)
    tokenizer = bench.tokenizer
    start = [token for token in tokenizer("").input_ids[:1] if token == tokenizer.bos_token_id]
    ids = torch.tensor(start + tokenizer(text.text, add_special_tokens=False, verbose=False).input_ids)
    count = len(ids) // length
    if count == 0:
        raise RecipeError(
            "evaluate.perplexity", f"the text {name!r} has {len(ids)} tokens, fewer than one window of {length}"
        )
    return ids[: count * length].view(count, length)[: settings.windows], len(ids)


def _perplexity(
    bench: Workbench, subject: Subject, model: PreTrainedModel, name: str, text: Documents
) -> Generator[Event, None, tuple[float | None, PerplexityProtocol]]:
    """exp of the mean cross-entropy over positions 1 … L-1 of every window."""
    ids, tokens = windows(bench, name, text)
    batches = ids.split(bench.recipe.evaluate.batch_size)
    total, count = 0.0, 0
    for done, batch in enumerate(batches, start=1):
        loss = _summed_loss(model, batch.to(bench.device))
        total, count = total + loss, count + batch[:, 1:].numel()
        if done % max(1, len(batches) // 20) == 0 or done == len(batches):
            running = _exp(total / count)
            metrics = {} if running is None else {f"perplexity.{name}": running}
            yield Progress(stage="evaluate", subject=subject, step=done, steps=len(batches), metrics=metrics)
    protocol = PerplexityProtocol(
        sequence_length=ids.shape[1],
        windows=len(ids),
        tokens=tokens,
        batch_size=bench.recipe.evaluate.batch_size,
        dtype=_name(bench.export_dtype),
        arithmetic=_name(arithmetic(bench)),
        text_sha256=text.sha256,
    )
    return _exp(total / count), protocol


def _exp(loss: float) -> float | None:
    """exp, or None where that is no finite number (a model that a cut or a training broke)."""
    return math.exp(loss) if loss < 700 else None  # False for NaN too


@torch.no_grad()
def _summed_loss(model: PreTrainedModel, ids: Tensor) -> float:
    """Σ cross-entropy, in nats, of the tokens [B, 1…L-1] given those before them in their window."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum").item()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
