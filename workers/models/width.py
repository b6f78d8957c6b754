"""What a recipe's ratio leaves of a model: channels, and heads where they go along. Torch-free, for plans and cuts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.contracts.methods import DressSettings
from workers.contracts.rivals import MagnitudeSettings, RandomSettings
from workers.contracts.widths import width_kept
from workers.errors import RecipeError
from workers.models.family import SLICED, Config, ModelFamily, head_dim_of, is_rotatable

ChannelSettings = DressSettings | MagnitudeSettings | RandomSettings
"""Of the methods that cut the same hidden channels in every layer."""


@dataclass(frozen=True)
class Width:
    """What is kept."""

    channels: int
    """d', channels of the residual stream."""
    heads: int | None = None
    """Attention heads kept, where they go along with the channels; none keeps all."""


def width_of(settings: ChannelSettings, family: ModelFamily, config: Config, ratio: float | None = None) -> Width:
    """What the settings keep of a model, at their own ratio or at another.

    Raises:
        RecipeError: rounding leaves nothing or removes nothing; `round_to` or `export` does not suit the architecture.
    """
    drops_heads = settings.export == "native" and family.narrow_type(config) is not None
    if drops_heads and not family.head_slots(config):
        raise RecipeError("method.export", "`native` cannot drop this architecture's attention heads; choose `auto`")
    multiple = head_dim_of(config) if drops_heads else family.width_multiple(config)
    wanted = settings.ratio if ratio is None else ratio
    channels = width_kept(config.hidden_size, multiple, wanted, settings.round_to)
    return Width(channels, channels // head_dim_of(config) if drops_heads else None)


def require_sliceable(family: ModelFamily) -> None:
    """Refuse a family of which no modelling file can say the matrices that SliceGPT puts on the shortcuts.

    Raises:
        RecipeError: names those that have one.
    """
    files = (Path(__file__).parent / "narrow").glob(f"modeling_{SLICED}*.py")
    known = sorted(file.stem.removeprefix(f"modeling_{SLICED}") for file in files)
    if family.model_type not in known:
        raise RecipeError(
            "method.kind",
            f"`slicegpt` has no modelling file with shortcut matrices for {family.model_type}; choose a model of one "
            f"of {', '.join(known)}, or another method",
        )


def is_principal(settings: DressSettings, family: ModelFamily, config: Config) -> bool:
    """Whether the stream is rotated: what `basis` says, `auto` wherever that is exact."""
    return settings.basis == "principal" or (settings.basis == "auto" and is_rotatable(family, config))
