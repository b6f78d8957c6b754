"""The shapes of a model's tensors after each method's cut, told beforehand and without torch.

Legend: d = hidden size, d' = the width kept, d_h = the width that the head reads, k = blocks removed.
"""

from __future__ import annotations

from workers.contracts.methods import MethodSettings
from workers.contracts.rivals import SliceGptSettings
from workers.contracts.widths import blocks_removed, width_sliced
from workers.models.family import Config, ModelFamily, Slot, is_tied
from workers.models.width import Width, is_principal, require_sliceable, width_of
from workers.stored_model import PlainConfig

Shapes = dict[str, list[int]]
"""Of a checkpoint's tensors, by name."""


def pruned_shapes(
    method: MethodSettings, family: ModelFamily, config: PlainConfig, stored: Shapes
) -> tuple[Shapes, int]:
    """What a method leaves of the dense model's tensors, and the hidden size after it.

    Args:
        config: the dense model's.
        stored: the dense model's tensors, a tied head left out.
    Raises:
        RecipeError: the settings do not suit the model.
        AttributeError: config.json lacks a field (`name`).
        LookupError: the tensors are not named as the architecture names them.
    """
    if method.kind == "sleb":
        return _without_blocks(stored, family, blocks_removed(config.num_hidden_layers, method.ratio)), _width(config)
    if method.kind == "slicegpt":
        return _sliced(method, family, config, stored)
    if method.kind in ("dense", "llm_surgeon"):  # zeros in unchanged shapes
        return stored, _width(config)
    assert method.kind in ("dress", "magnitude", "random")  # noqa: S101  the kinds that cut one set of channels
    width = width_of(method, family, config)
    if method.kind == "dress" and is_tied(config) and is_principal(method, family, config):
        # The rotation folds the last norm into the head, which then is the embedding no longer.
        config, stored = _untied(config), {**stored, head_slot(family, config).parameter: _head_shape(config)}
    return _cut(stored, family, config, width), width.channels


def require_possible(method: MethodSettings, family: ModelFamily, config: Config) -> None:
    """Refuse what a method cannot do to a model of this config.

    Raises:
        RecipeError: names the field and what to choose instead.
    """
    if method.kind == "dress":
        for ratio in method.ratios_served:
            width_of(method, family, config, ratio)
    elif method.kind == "magnitude" or method.kind == "random":
        width_of(method, family, config)
    elif method.kind == "sleb":
        blocks_removed(config.num_hidden_layers, method.ratio)
    elif method.kind == "slicegpt":
        require_sliceable(family)
        width_sliced(_width(config), method.ratio, method.round_to)


def head_slot(family: ModelFamily, config: PlainConfig) -> Slot:
    """The head's slot, as of a model whose head is a tensor of its own."""
    tied = {slot.parameter for slot in family.slots(PlainConfig(**{**vars(config), "tie_word_embeddings": True}))}
    return next(slot for slot in family.slots(_untied(config)) if slot.parameter not in tied)


def _untied(config: PlainConfig) -> PlainConfig:
    return PlainConfig(**{**vars(config), "tie_word_embeddings": False})


def _head_shape(config: Config) -> list[int]:
    return [int(config.vocab_size), _width(config)]


def _width(config: Config) -> int:
    return int(config.hidden_size)


def _named(parameter: str, family: ModelFamily, shapes: Shapes) -> str:
    """What the files call a parameter; one of the bare decoder leaves the first part of the name out."""
    names = (parameter, family.stored_names.get(parameter, ""), parameter.partition(".")[2])
    return next((name for name in names if name in shapes), parameter)


def _cut(stored: Shapes, family: ModelFamily, config: Config, width: Width) -> Shapes:
    """Each tensor that touches the residual stream loses its share along its own axis; nothing else changes."""
    left = {name: list(shape) for name, shape in stored.items()}
    cuts = [(slot.parameter, slot.axis, width.channels) for slot in family.slots(config)]
    if width.heads is not None:
        heads = family.head_slots(config)
        cuts += [(slot.parameter, slot.axis, width.heads * slot.per_head) for slot in heads]
    for parameter, axis, kept in cuts:
        left[_named(parameter, family, left)][axis] = kept
    return left


def _without_blocks(stored: Shapes, family: ModelFamily, count: int) -> Shapes:
    """Blocks are of one size, so which of them go changes no sum.

    Raises:
        LookupError: no block is there under the architecture's names.
    """
    lists = (family.block_list, family.block_list.partition(".")[2])
    gone = tuple(f"{name}.{number}." for name in lists for number in range(1, count + 1))
    left = {name: shape for name, shape in stored.items() if not name.startswith(gone)}
    if len(left) == len(stored):
        raise LookupError(family.block_list)
    return left


def _sliced(method: SliceGptSettings, family: ModelFamily, config: PlainConfig, stored: Shapes) -> tuple[Shapes, int]:
    """As `workers.pruning.slicegpt` says: no norms, d' along the stream, shortcuts, a head and biases of their own."""
    kept = width_sliced(_width(config), method.ratio, method.round_to)
    *before, last = family.sites(config)
    widths = [kept for _ in before] + [kept if method.slice_head else _width(config)]
    left = {name: list(shape) for name, shape in stored.items()}
    if is_tied(config):
        left[head_slot(family, config).parameter] = _head_shape(config)
    numbers = {site.norm: number for number, site in enumerate([*before, last])}
    writing = 0  # the site that reads what is written here
    for slot in family.slots(_untied(config)):
        name = _named(slot.parameter, family, left)
        if slot.role == "norm":
            del left[name]
            writing = numbers[slot.parameter.rpartition(".")[0]] + 1
        else:
            left[name][slot.axis] = widths[writing if slot.role == "writer" else writing - 1]
    for number in range(len(before)):
        left[f"shortcut {number}"] = [widths[number], widths[number + 1]]
    if family.norm == "layer":  # β goes into biases
        for reader in (name for site in [*before, last] for name in site.readers):
            left[_named(f"{reader}.bias", family, left)] = left[_named(f"{reader}.weight", family, left)][:1]
    return left, kept
