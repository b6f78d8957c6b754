"""What a search compares its trials by: the loss of the model as if it were cut now, on text that no step trains on.

A rung is a fraction of a trial's training steps, regularize and recover together. What is told there decides no result:
weights, figures and keys are the same to the bit with and without rungs.

The price of a rung is `VALIDATION_SEQUENCES` = 16 sequences forward. A step of 4 sequences that distils takes as much
as 4·(1 + 1 + 2) = 16 forward (model, teacher, backward), so a rung costs about a step (0.9 were measured): ASHA's two
rungs take 0.8 % of the 250 steps that 1000 samples make.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workers.contracts.events import Progress
from workers.contracts.recipe import Recipe
from workers.contracts.records import TrainingRecord
from workers.contracts.results import StageName, StageResult
from workers.contracts.training import TrainingSettings
from workers.models.width import Width, width_of
from workers.pruning.masking import masked_to
from workers.stages.record import CUT_LOSS, RECORDS, TRAINING_FRACTION
from workers.training.loop import Step, autocast, steps_of
from workers.training.objectives import language_modelling
from workers.workbench import Workbench

CHANNELS_KEPT = "channels_kept"
"""The width that a `cut_loss` is about: an elastic run serves several, under one key."""

_KEPT_REPORTS = "cut_losses"
"""Among the small tensors of a stage's checkpoint: float64 [reports, 3] of step, channels kept, loss."""

_ROUNDING = 1e-9
"""A third of 12 steps is the fourth, though 1/3 is no number of a computer."""


def steps_at(recipe: Recipe, stage: StageName, fractions: Iterable[float]) -> dict[int, list[float]]:
    """Those of the fractions that are reached within a stage, by the stage's first step that has them behind it."""
    regularize, recover = _steps_of_stages(recipe)
    before, steps = (0, regularize) if stage == "regularize" else (regularize, recover if stage == "recover" else 0)
    at: dict[int, list[float]] = defaultdict(list)
    for fraction in sorted(fractions):
        step = max(1, math.ceil(fraction * (regularize + recover) - _ROUNDING)) - before
        if 1 <= step <= steps:
            at[step].append(fraction)
    return dict(at)


def _steps_of_stages(recipe: Recipe) -> tuple[int, int]:
    """Training steps of the regularize stage and of the recover stage."""
    method, recover, data = recipe.method, recipe.recover, recipe.data
    regularize = steps_of(data.regularize_samples, method.training) if method.kind == "dress" and method.trains else 0
    return regularize, 0 if recover.kind == "none" else steps_of(data.recover_samples, recover.training)


@dataclass
class RungReports:
    """Adds a step's report to a stage's steps where one of its rungs is reached."""

    at: Mapping[int, list[float]]
    """See `steps_at`."""
    loss: Callable[[], float]
    """Of the model as it is; asked between two steps."""
    width: int | None
    """Channels that the loss is about, where the stage's result serves more than one width."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that travel with the stage's checkpoints. A kill may lose what was told, not what is here."""

    def following(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps, reports between them. Where a run resumes, those of its checkpoint come again."""
        for step in steps:
            yield step
            if step.resumed:
                for earlier in sorted(self._known()):
                    if earlier < step.step:
                        yield from self._told(step, earlier)
            yield from self._told(step, step.step)

    def _told(self, step: Step, at: int) -> Iterator[Step]:
        for fraction in self.at.get(at, ()):
            known = self._known()
            loss = known[at] if at in known else self._measured(at)
            yield Step(at, step.steps, figures_of(loss, fraction, self.width))

    def _measured(self, at: int) -> float:
        loss = self.loss()
        row = torch.tensor([[at, self.width or 0, loss]], dtype=torch.float64)
        self.extra[_KEPT_REPORTS] = torch.cat([self.extra[_KEPT_REPORTS], row]) if _KEPT_REPORTS in self.extra else row
        return loss

    def _known(self) -> dict[int, float]:
        rows = self.extra[_KEPT_REPORTS].tolist() if _KEPT_REPORTS in self.extra else []
        return {int(step): loss for step, width, loss in rows if int(width) == (self.width or 0)}


def figures_of(loss: float, fraction: float, width: int | None) -> dict[str, float]:
    """What the event of a rung says."""
    figures = {CUT_LOSS: loss, TRAINING_FRACTION: fraction}
    return figures if width is None else {**figures, CHANNELS_KEPT: float(width)}


def at_rungs(
    bench: Workbench, stage: StageName, model: PreTrainedModel, training: TrainingSettings, extra: dict[str, Tensor]
) -> RungReports | None:
    """The reports of a stage; None if it has no rung. Ask before its first step.

    In the regularize stage the loss is that of the model cut now with exact norms, whatever `exact_norms` says: recipes
    that differ in it alone share the stage's result. In the recover stage it is that of the model as it is.

    Args:
        model: which trains, adapters and all.
        extra: see `RungReports`.
    """
    at = steps_at(bench.recipe, stage, bench.rungs)
    if not at:
        return None
    masks: Callable[[], AbstractContextManager[None]] = nullcontext
    cut = _width_cut_to(bench, stage)
    if cut is not None:
        masks = partial(masked_to, cut, model, bench.family)
    loss = held_out_loss(model, bench.validation_sequences, training, masks)
    return RungReports(at, loss, cut.channels if cut else None, extra)


def _width_cut_to(bench: Workbench, stage: StageName) -> Width | None:
    """To what the model that a stage trains is to be cut; None where it is cut already."""
    settings = bench.recipe.method
    if stage != "regularize" or settings.kind != "dress":
        return None
    return width_of(settings, bench.family, bench.config)


def held_out_loss(
    model: PreTrainedModel,
    sequences: Tensor,
    training: TrainingSettings,
    masks: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[[], float]:
    """Measures the mean cross-entropy, in nats a token, in the arithmetic and the portions in which the model trains.

    Nothing is drawn, no gradient taken, and the model's mode is as before.

    Args:
        sequences: token ids [count, L].
        masks: what holds while the model is asked.
    """
    objective = language_modelling(model, chunk_tokens=training.loss_chunk_tokens)

    @torch.no_grad()
    def loss() -> float:
        device, trains, total = next(model.parameters()).device, model.training, 0.0
        model.eval()
        try:
            with masks(), autocast(device, training):
                for ids in sequences.split(training.sequences_at_once):
                    total += len(ids) * objective(ids.to(device)).item()
        finally:
            model.train(trains)
        return total / len(sequences)

    return loss


def told_again(bench: Workbench, stage: StageName, result: StageResult) -> Iterator[Progress]:
    """What a stage that was found had told at this recipe's rungs: of the same step, and of the same width."""
    at = steps_at(bench.recipe, stage, bench.rungs)
    stored = next((file for file in result.files if file.path == f"{RECORDS}/{stage}.json"), None)
    if not at or stored is None:
        return
    file = bench.store.fetch(stored, bench.workspace / result.key)
    record = TrainingRecord.model_validate_json(file.read_bytes())
    gaps: list[float | None] = [None] * len(record.step)
    losses, widths = (record.metrics.get(name, gaps) for name in (CUT_LOSS, CHANNELS_KEPT))
    cut = _width_cut_to(bench, stage)
    width = cut.channels if cut else None
    for step, loss, kept in zip(record.step, losses, widths, strict=True):
        if loss is not None and kept == width:
            for fraction in at.get(step, ()):
                figures = figures_of(loss, fraction, width)
                yield Progress(stage=stage, step=step, steps=record.steps, metrics=figures)
