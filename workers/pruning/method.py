"""The protocol of a pruning method: prepare the dense model, train it so that parts may go, cut them.

The stages `regularize` and `prune` drive it; a method knows its settings, the family and the model, nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.contracts.methods import MethodSettings
from workers.models.family import ModelFamily
from workers.training import Keeper, Step


@dataclass(frozen=True)
class Narrowed:
    """A cut model: its config and its tensors."""

    config: PreTrainedConfig
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Regularization:
    """What the regularize stage hands a method."""

    model: PreTrainedModel
    """The dense model in float32, changed in place."""
    sequences: Tensor
    """Token ids [samples, sequence_length]."""
    seed: int
    keeper: Keeper
    """Where training state is kept."""
    resumed: bool
    """A checkpoint waits in the keeper: whatever it restores need not be computed."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Tensors the method wants to have back on resumption; filled by the method, restored by the keeper."""


class Method(Protocol):
    """One way of making a model smaller."""

    def check(self, settings: Any, family: ModelFamily, config: PreTrainedConfig) -> None:
        """Refuse, before anything is loaded, what cannot be done to a model of this config.

        Raises:
            RecipeError: names the field.
        """
        ...

    def regularize(self, settings: Any, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Prepare the model and train it, in place, yielding steps. The architecture keeps its shapes."""
        ...

    def cut(self, settings: Any, family: ModelFamily, model: PreTrainedModel) -> Narrowed:
        """Take the parts away."""
        ...

    def zero(self, settings: Any, family: ModelFamily, model: PreTrainedModel) -> None:
        """Set to zero, in place, what `cut` would take away: the reference that the cut model is compared with."""
        ...


def method_of(settings: MethodSettings) -> Method:
    """The method that a recipe names."""
    return cast(Method, import_module(f"workers.pruning.{settings.kind}").METHOD)
