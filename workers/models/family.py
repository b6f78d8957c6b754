"""The protocol of a model family: which tensors touch the residual stream, and how its config says another width.

Families import neither torch nor transformers: a config is any object with the attributes that config.json names, so
that a recipe can be checked and planned where no model can run.

Legend: d = hidden size (width of the residual stream), d' = the width kept, γ, β = a norm's weight and bias.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, cast

from workers.contracts.recipe import FAMILIES
from workers.errors import RecipeError

Role = Literal["reader", "bare_reader", "writer", "norm", "post_norm"]
"""How a tensor touches the stream. A reader takes it through a norm, a bare reader as it stands; a writer adds to it;
a norm holds one number a channel and stands before readers, a post-norm between a writer and the stream."""

NARROW = "narrow_"
"""Before the `model_type` of an architecture whose modelling file travels with the export."""
SLICED = "sliced_"
"""Before the `model_type` of an architecture as SliceGPT leaves it, whose modelling file travels with the export."""

Config = Any
"""A transformers config, or the plain values of config.json over `ModelFamily.defaults`."""


@dataclass(frozen=True)
class Slot:
    """One parameter that touches the residual stream, along exactly one axis."""

    parameter: str
    """Dotted name, as in `model.named_parameters()`."""
    axis: int
    """The axis of length d."""
    role: Role


@dataclass(frozen=True)
class HeadSlot:
    """One parameter with an axis that runs over the attention heads, one head after the other."""

    parameter: str
    axis: int
    per_head: int
    """Rows (or columns) of one head, adjacent."""
    layer: int
    """Whose heads; every layer orders its own."""


@dataclass(frozen=True)
class StreamSite:
    """A place where the stream is read: through which norm, and by which linear modules."""

    module: str
    """Dotted name of the module whose first input is the stream."""
    norm: str | None
    """Dotted name of the norm in between; none where the readers take the stream as it stands."""
    readers: tuple[str, ...]
    """Dotted names of the linear modules behind."""


class ModelFamily(Protocol):
    """All that an algorithm may know of an architecture."""

    model_type: str
    """Hugging Face's name of the architecture, and of the family's file."""
    norm: Literal["rms", "layer"]
    """`rms` divides the stream by its root mean square; `layer` takes its mean away first."""
    norm_offset: float
    """γ is the stored weight plus this (Gemma: 1)."""
    embeddings_scaled: bool
    """Whether token embeddings are multiplied by √hidden_size on their way into the stream (Gemma)."""
    defaults: Mapping[str, Any]
    """Values of the config's fields that config.json leaves out when they are the default."""
    stored_names: Mapping[str, str]
    """What checkpoint files call a parameter, by the model's own name, where the two differ."""
    block_list: str
    """Dotted name of the list of transformer blocks; the stream enters a block as its first input."""

    def check(self, config: Config) -> None:
        """Refuse variants that the slots do not describe.

        Raises:
            RecipeError: names what is missing.
        """
        ...

    def slots(self, config: Config) -> list[Slot]:
        """Every parameter that touches the stream, tied tensors once, in the order of the layers."""
        ...

    def head_slots(self, config: Config) -> list[HeadSlot]:
        """Every parameter with an axis over the heads; empty where heads never need to go (see `narrow_type`)."""
        ...

    def sites(self, config: Config) -> list[StreamSite]:
        """Every place where the stream is read, in the order of the layers; the last feeds the head."""
        ...

    def width_multiple(self, config: Config) -> int:
        """The smallest number that every width kept must be a multiple of."""
        ...

    def epsilon(self, config: Config) -> str | None:
        """The config's field that holds the epsilon of the stream's norms and of no other; none if there is none."""
        ...

    def narrow_type(self, config: Config) -> str | None:
        """The `model_type` of the modelling file that an export of another width needs; none if stock code can say it.

        The file is `workers/models/narrow/modeling_<narrow_type>.py`.
        """
        ...

    def narrowed(self, config: Config, width: int) -> Config:
        """A config of width `width` whose attention and FFN sizes stay, its epsilon as it was."""
        ...


def family_named(model_type: str | None) -> ModelFamily:
    """The family of an architecture; an export with a modelling file is of the family it was made from.

    Raises:
        RecipeError: no family knows it.
    """
    name = (model_type or "").removeprefix(NARROW)
    if name.removeprefix(SLICED) != name and name.removeprefix(SLICED) in FAMILIES:
        raise RecipeError(
            "model.source",
            f"{name!r} is what `slicegpt` made of a model: its stream has another basis before every norm, so no "
            "method can prune it again; name the model that it was made from",
        )
    if name not in FAMILIES:
        raise RecipeError(
            "model.source",
            f"the architecture {model_type!r} is not supported: no file of workers/models says which of its tensors "
            f"touch the residual stream; supported are {', '.join(FAMILIES)}",
        )
    return cast(ModelFamily, import_module(f"workers.models.{name}").FAMILY)


def family_of(config: Config) -> ModelFamily:
    """The family of a model.

    Raises:
        RecipeError: no family knows this architecture, or not this variant of it.
    """
    family = family_named(getattr(config, "model_type", None))
    family.check(config)
    return family


def is_rotatable(family: ModelFamily, config: Config) -> bool:
    """Whether the stream's basis may be rotated exactly: no norm stands between a writer and the stream."""
    return all(slot.role != "post_norm" for slot in family.slots(config))


def is_tied(config: Config) -> bool:
    """Whether the head and the token embedding are one tensor."""
    return bool(getattr(config, "tie_word_embeddings", False))


def head_dim_of(config: Config) -> int:
    """Channels a head; `head_dim` where the config says it, else hidden size over heads."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def at_width(config: Config, width: int) -> Config:
    """A copy of the config with another hidden size and the head size it had; see `ModelFamily.narrowed`."""
    narrow = deepcopy(config)
    narrow.head_dim = head_dim_of(config)
    narrow.hidden_size = width
    return narrow


def blocks(family: ModelFamily, config: Config) -> list[str]:
    """Dotted names of the transformer blocks, in the order in which they run."""
    return [f"{family.block_list}.{number}" for number in range(config.num_hidden_layers)]


def without_blocks(config: Config, removed: Collection[int]) -> Config:
    """A copy of the config whose blocks lack those of these numbers; what it lists a layer loses the same entries."""
    fewer = deepcopy(config)
    count = config.num_hidden_layers
    for field, value in vars(config).items():
        if isinstance(value, list | tuple) and field.endswith("layer_types"):
            setattr(fewer, field, [kind for number, kind in enumerate(value) if number not in removed])
    windowed = getattr(config, "max_window_layers", None)  # Qwen: so many first blocks see the whole text
    if windowed is not None:
        fewer.max_window_layers = windowed - sum(number < windowed for number in removed)
    fewer.num_hidden_layers = count - len(removed)
    return fewer


def renamed_without(family: ModelFamily, parameter: str, removed: Collection[int]) -> str | None:
    """What a parameter is called once the blocks of these numbers are gone; none if it goes with them."""
    start = f"{family.block_list}."
    number, dot, rest = parameter.removeprefix(start).partition(".")
    if not (parameter.startswith(start) and dot):
        return parameter
    if int(number) in removed:
        return None
    return f"{start}{int(number) - sum(gone < int(number) for gone in removed)}.{rest}"


def refuse_unless(supported: bool, missing: str) -> None:
    """A guard for `ModelFamily.check`.

    Raises:
        RecipeError: not supported; the message names what is missing.
    """
    if not supported:
        raise RecipeError("model.source", f"this variant of the architecture is not supported: {missing}")


def refuse_quantized(config: Config) -> None:
    """A guard for `ModelFamily.check`: rotating and cutting need numbers.

    Raises:
        RecipeError: the weights are quantized.
    """
    quantized = getattr(config, "quantization_config", None)
    refuse_unless(not quantized, "its weights are quantized; name the checkpoint in 16 or 32 bits")


def writer_modules(family: ModelFamily, config: Config) -> list[str]:
    """Dotted names of the modules whose outputs go to the stream, or to a post-norm before it."""
    weights = [slot.parameter for slot in family.slots(config) if slot.role == "writer"]
    return [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]


def block_linears(family: ModelFamily, config: Config) -> list[str]:
    """Dotted names of the blocks' linear modules, each once: readers but the head, writers but the embeddings.

    Fused queries, keys and values are one module.
    """
    weights = [slot.parameter for slot in family.slots(config) if slot.role == "writer" and slot.axis == 0]
    writers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    return [*(reader for site in family.sites(config)[:-1] for reader in site.readers), *writers]


def linear(module: str, axis: int, role: Role, bias: bool = False) -> list[Slot]:
    """The slots of a linear module: its weight [out, in] and, if it writes to the stream, its bias [out]."""
    weight = Slot(f"{module}.weight", axis, role)
    return [weight, Slot(f"{module}.bias", 0, role)] if bias and role == "writer" else [weight]


def readers(block: str, names: Iterable[str], role: Role = "reader") -> list[Slot]:
    """The weights of linear modules under `block` that read the stream."""
    return [Slot(f"{block}.{name}.weight", 1, role) for name in names]


def layer_norm(module: str) -> list[Slot]:
    """The slots of a LayerNorm on the stream: γ and β."""
    return [Slot(f"{module}.weight", 0, "norm"), Slot(f"{module}.bias", 0, "norm")]
