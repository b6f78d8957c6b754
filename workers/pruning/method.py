"""The protocol of a pruning method: prepare, train the dense model so that parts may go, cut them.

The stages `regularize` and `prune` drive it; a method knows its settings, the family and the model, nothing of files.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.contracts.methods import MethodSettings
from workers.models.family import ModelFamily
from workers.pruning.basis import StreamStatistics
from workers.training.loop import Keeper, Step

CALIBRATION_SEQUENCES = 128
"""Sequences from which statistics of the dense model are taken, where the settings name no number."""


CHANNELS_CUT = "zeroing what goes changed the logits by at most {zeroing}, and cutting the zeros by at most {cutting}"
"""`Method.cut_in_words` of a method that cuts hidden channels."""


@dataclass(frozen=True)
class Narrowed:
    """A cut model: its config and its tensors."""

    config: PreTrainedConfig
    weights: Mapping[str, Tensor]
    """May be made from the model that was cut when they are read: save them before it changes."""


@dataclass(frozen=True)
class Preparation:
    """What the preparation of a method gets."""

    model: PreTrainedModel
    """The dense model in float32, left as it is."""
    sequences: Tensor
    """Token ids [samples, sequence_length] of the regularize share."""
    seed: int
    keeper: Keeper
    """Where training state is kept."""
    statistics: StreamStatistics | None = None
    """What the dense model's stream carries, of a method whose settings have it looked at (`for_covariance`)."""


@dataclass(frozen=True)
class Regularization:
    """What the regularize stage hands a method."""

    model: PreTrainedModel
    """The dense model in float32, changed in place."""
    dense_folder: Path
    """Where the dense model lies, for a teacher."""
    prepared: dict[str, Tensor]
    """What `Method.prepare` returned."""
    sequences: Tensor
    """Token ids [samples, sequence_length]."""
    seed: int
    keeper: Keeper
    """Where training state is kept."""
    resumed: bool
    """A checkpoint waits in the keeper: whatever it restores need not be computed."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Tensors the method wants to have back on resumption; filled by the method, restored by the keeper."""
    record: dict[str, Any] = field(default_factory=dict)
    """Plain values that belong to the stage's result, filled by the method: the data of the paper's Figure 3."""


class Method(Protocol):
    """One way of making a model smaller."""

    leaves_zeros: bool
    """Whether the cut leaves zeros in unchanged shapes, which recovery must keep."""
    cut_in_words: str
    """What the prune stage tells of the cut. `{zeroing}` is how far logits move from the regularized model to that of
    `zero`, `{cutting}` from there to the artifact: the largest change of one, for a person to read."""

    def check(self, settings: Any, family: ModelFamily, config: PreTrainedConfig) -> None:
        """Refuse, before anything is loaded, what cannot be done to a model of this config.

        Raises:
            RecipeError: names the field.
        """
        ...

    def prepare(
        self, settings: Any, family: ModelFamily, task: Preparation
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """Find what the training starts from (axes, orders), yielding steps if that takes training; returns tensors."""
        ...

    def regularize(self, settings: Any, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Train the model, in place, yielding steps. The architecture keeps its shapes."""
        ...

    def cut(self, settings: Any, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]) -> Narrowed:
        """Take the parts away; `prepared` is what `prepare` returned."""
        ...

    def zero(self, settings: Any, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]) -> None:
        """Set to zero, in place, what `cut` would take away: the reference that the cut model is compared with.

        Does nothing where the architecture cannot say it.
        """
        ...


def method_of(settings: MethodSettings) -> Method:
    """The method that a recipe names."""
    return cast(Method, import_module(f"workers.pruning.{settings.kind}").METHOD)


def nothing_to_prepare() -> Generator[Step, None, dict[str, Tensor]]:
    """The preparation of a method that needs none."""
    yield from ()
    return {}


def calibration(sequences: Tensor) -> Iterator[Tensor]:
    """The sequences from which statistics are taken, in batches."""
    return batches(sequences, CALIBRATION_SEQUENCES)


def batches(sequences: Tensor, count: int, size: int = 8) -> Iterator[Tensor]:
    """The first `count` sequences in batches: [≤size, sequence_length] each."""
    yield from torch.split(sequences[:count], size)
