"""What the conformance suite does to a tiny model: give it a basis, train it, cut it, save it, ask it for logits."""

from __future__ import annotations

from collections.abc import Generator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.workers.models.variants import HIDDEN, VARIANTS, VOCABULARY
from workers import checkpoints
from workers.contracts.methods import DressSettings
from workers.models.family import family_of, is_rotatable
from workers.pruning.dress import METHOD, look
from workers.pruning.method import Preparation, Regularization
from workers.training.loop import TrainingState

CPU = torch.device("cpu")
RATIO = 1 / 3
KEPT = round((1 - RATIO) * HIDDEN)
SEQUENCES = torch.randint(VOCABULARY, (12, 20), generator=torch.Generator().manual_seed(1))
"""What the models are calibrated and trained on."""
PROBE = torch.randint(VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(2))
"""What they are asked; longer than the sliding windows."""
FIRST = list({name.partition("-")[0]: name for name in reversed(VARIANTS)}.values())[::-1]
"""One variant of each family."""
ROTATABLE = [name for name in VARIANTS if is_rotatable(family_of(VARIANTS[name]().config), VARIANTS[name]().config)]
FIRST_ROTATABLE = [name for name in FIRST if name in ROTATABLE]

Result = TypeVar("Result")


class NoKeeper:
    """Keeps no checkpoint."""

    def load(self, state: TrainingState) -> int:
        return 0

    def due(self, step: int, steps: int) -> bool:
        return False

    def save(self, step: int, state: TrainingState) -> None:
        raise AssertionError("no checkpoint is ever due")


@cache
def _made(name: str) -> PreTrainedModel:
    return VARIANTS[name]()


def dense(name: str) -> PreTrainedModel:
    """The dense model of a variant; each call gives another copy of the same."""
    return deepcopy(_made(name))


def settings(**changes: Any) -> DressSettings:
    """Three steps of training, no teacher, plain principal components."""
    plain = {
        **{"ratio": RATIO, "distillation": 0.0, "stream_distillation": 0.0, "refinement": 0.0, "sensitivity": 0.0},
        **{"elastic_ratios": [RATIO, 0.5], "training": {"batch_size": 4}},
    }
    return DressSettings.model_validate({**plain, **changes})


def result_of(steps: Generator[Any, None, Result]) -> Result:
    """What a generator returns when it has run."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def prepared(model: PreTrainedModel, wanted: DressSettings) -> dict[str, Tensor]:
    """The axes or orders that the method finds for a model."""
    family = family_of(model.config)
    looked = None if wanted.for_covariance() is None else look(wanted, family, model, SEQUENCES, 0)
    return result_of(METHOD.prepare(wanted, family, Preparation(model, SEQUENCES, 0, NoKeeper(), looked)))


@dataclass(frozen=True)
class Trained:
    """A model after the regularize stage."""

    model: PreTrainedModel
    losses: list[float]
    """Of each step, before its update."""
    record: dict[str, Any]
    """What the method says of its training."""


def trained(name: str, wanted: DressSettings, teacher: Path = Path("none")) -> Trained:
    """A variant after the method's preparation and, if the settings train, its training.

    Args:
        teacher: the folder of the dense model, for settings that distil.
    """
    model = dense(name)
    task = Regularization(
        *(model, teacher, prepared(model, wanted), SEQUENCES, 0, NoKeeper()),
        resumed=False,
    )
    losses = [step.metrics["loss"] for step in METHOD.regularize(wanted, family_of(model.config), task)]
    return Trained(model.eval(), losses, task.record)


def regularized(name: str, wanted: DressSettings) -> PreTrainedModel:
    """See `trained`."""
    return trained(name, wanted).model


def zeroed(model: PreTrainedModel, wanted: DressSettings) -> PreTrainedModel:
    """A copy, with zeros where the cut takes channels away."""
    model = deepcopy(model)
    METHOD.zero(wanted, family_of(model.config), model, {})
    return model


def cut(model: PreTrainedModel, wanted: DressSettings, folder: Path) -> PreTrainedModel:
    """The cut model as it is read back from disk."""
    narrowed = METHOD.cut(wanted, family_of(model.config), model, {})
    checkpoints.save_weights(narrowed.config, narrowed.weights, torch.float32, folder)
    return checkpoints.load_model(folder, torch.float32, CPU)


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor = PROBE) -> Tensor:
    """[batch, length, vocabulary]"""
    return model(input_ids=ids, use_cache=False).logits


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference."""
    return (one - other).abs().max().item()
