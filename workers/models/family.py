"""The protocol of a model family: which tensors touch the residual stream, and how its config says another width.

Legend: d = hidden size (width of the residual stream), d' = the width kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol, cast

from transformers import PreTrainedConfig

from workers.contracts.recipe import FAMILIES
from workers.errors import RecipeError

Role = Literal["reader", "writer", "norm"]
"""A reader takes the stream as input, a writer adds to it, a norm holds one number a channel."""


@dataclass(frozen=True)
class Slot:
    """One parameter that touches the residual stream, along exactly one axis."""

    parameter: str
    """Dotted name, as in `model.named_parameters()`."""
    axis: int
    """The axis of length d."""
    role: Role


@dataclass(frozen=True)
class NormSite:
    """A norm on the stream and the linear modules that read its output."""

    norm: str
    """Dotted module name."""
    readers: tuple[str, ...]
    """Dotted module names."""


class ModelFamily(Protocol):
    """All that an algorithm may know of an architecture."""

    model_type: str
    """Hugging Face's name of the architecture, and of the family's file."""

    def slots(self, config: PreTrainedConfig) -> list[Slot]:
        """Every parameter that touches the stream, tied tensors once, in the order of the layers."""
        ...

    def norm_sites(self, config: PreTrainedConfig) -> list[NormSite]:
        """Every norm that stands on the stream, in the order of the layers; the last feeds the head."""
        ...

    def width_multiple(self, config: PreTrainedConfig) -> int:
        """The smallest number that every width kept must be a multiple of."""
        ...

    def narrowed(self, config: PreTrainedConfig, width: int, epsilon_factor: float) -> PreTrainedConfig:
        """A config of width `width` whose attention and FFN sizes stay, its norms' epsilon multiplied by the factor."""
        ...


def family_of(config: PreTrainedConfig) -> ModelFamily:
    """The family of a model.

    Raises:
        RecipeError: no family knows this architecture.
    """
    model_type = config.model_type
    if model_type not in FAMILIES:
        raise RecipeError(
            "model.source",
            f"the architecture {model_type!r} is not supported; supported are: {', '.join(FAMILIES)}",
        )
    return cast(ModelFamily, import_module(f"workers.models.{model_type}").FAMILY)
