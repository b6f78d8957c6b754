"""DReSS: regularize the channels that will go, so that their part moves to the rest; then cut them.

Follows "DReSS: Data-driven Regularized Structured Streamlining for Large Language Models" (Algorithm 1) under
`preset: paper`; `preset: recommended` adds the rotation, annealing to exactly zero and exact norms (METHOD §4).

Legend: d = hidden size, d' = the width kept, R = {d', …, d-1} the channels removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.contracts.methods import DressSettings
from workers.contracts.widths import width_kept
from workers.models.family import ModelFamily
from workers.pruning.basis import fold_norms, principal_axes, rotate, stream_covariance, untie_head
from workers.pruning.cut import cut_weights, zero_removed
from workers.pruning.groups import Annealing, Penalty, Regularizer, RemovedPart
from workers.pruning.method import Narrowed, Regularization
from workers.training import Objective, Step, distillation, language_modelling, steps_of, train

CALIBRATION_SEQUENCES = 128
"""Sequences of the regularize share from which the stream's covariance is taken."""


class Dress:
    """See the module."""

    def check(self, settings: DressSettings, family: ModelFamily, config: PreTrainedConfig) -> None:
        """See `Method.check`."""
        _kept(settings, family, config)

    def regularize(self, settings: DressSettings, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Steps 1 and 2 of the method. See `Method.regularize`."""
        model, training = task.model, settings.training
        kept = _kept(settings, family, model.config)
        objective = _objective(settings, model)
        if settings.basis == "principal":
            _to_principal_axes(model, family, task)
        removed = RemovedPart(model, family, kept)
        removed.before = task.extra.setdefault("magnitudes", removed.magnitudes())
        rider = _regularizer(settings, removed, steps_of(len(task.sequences), training))
        yield from train(model, task.sequences, training, objective, seed=task.seed, rider=rider, keeper=task.keeper)

    def zero(self, settings: DressSettings, family: ModelFamily, model: PreTrainedModel) -> None:
        """See `Method.zero`."""
        zero_removed(model, family, _kept(settings, family, model.config))

    def cut(self, settings: DressSettings, family: ModelFamily, model: PreTrainedModel) -> Narrowed:
        """Step 3 of the method. See `Method.cut`."""
        kept = _kept(settings, family, model.config)
        return Narrowed(*cut_weights(model, family, kept, settings.exact_norms))


def _kept(settings: DressSettings, family: ModelFamily, config: PreTrainedConfig) -> int:
    """d' of this recipe for this model."""
    return width_kept(config.hidden_size, family.width_multiple(config), settings.ratio, settings.round_to)


def _to_principal_axes(model: PreTrainedModel, family: ModelFamily, task: Regularization) -> None:
    """Rotate the stream; a checkpoint holds rotated weights, so on resumption only the head is untied."""
    untie_head(model)
    if task.resumed:
        return
    fold_norms(model, family)
    model.eval()
    covariance = stream_covariance(model, family, _calibration(task.sequences))
    rotate(model, family, principal_axes(covariance))


def _calibration(sequences: Tensor) -> Iterator[Tensor]:
    yield from sequences[:CALIBRATION_SEQUENCES].split(8)


def _regularizer(settings: DressSettings, removed: RemovedPart, steps: int) -> Regularizer:
    if settings.solver == "anneal":
        return Annealing(removed, round(settings.anneal_fraction * steps))
    return Penalty(removed, settings.norm, settings.strength)


def _objective(settings: DressSettings, model: PreTrainedModel) -> Objective:
    """Cross-entropy, mixed with the divergence to the dense model if the recipe asks for it."""
    if settings.distillation == 0:
        return language_modelling(model)
    teacher = deepcopy(model).eval().requires_grad_(False)
    if model.device.type == "cuda":
        teacher = teacher.to(torch.bfloat16)
    return distillation(model, teacher, settings.distillation)


METHOD = Dress()
