"""The cut: remove the last channels of the residual stream from every tensor that touches it (DReSS Eqs. 8-10).

Legend: d = hidden size, d' = the width kept, R = {d', …, d-1} the channels removed, K = those kept, S = I - R,
c = √(d'/d), γ, β = a norm's weight and bias, ε = its epsilon.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.models.family import ModelFamily, is_tied
from workers.models.narrow import with_modelling_file
from workers.models.width import Width
from workers.pruning.groups import take_mean

Change = Callable[[Tensor], Tensor]
"""Makes a new tensor from one; never writes into the one given."""


class CutWeights(Mapping[str, Tensor]):
    """The narrower model's tensors by name, each made when it is asked for: no second model lies in memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._wide = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self._changes: dict[str, list[Change]] = defaultdict(list)

    def change(self, name: str, change: Change) -> None:
        """Apply this to the tensor after all that was asked for before."""
        self._changes[name].append(change)

    def keep(self, name: str, axis: int, length: int) -> None:
        """Keep the first so many entries along an axis."""
        self.change(name, lambda tensor: tensor.narrow(axis, 0, length))

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        tensor = self._wide[name]
        for change in self._changes.get(name, ()):
            tensor = change(tensor)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._wide)

    def __len__(self) -> int:
        return len(self._wide)


@torch.no_grad()
def zero_removed(model: PreTrainedModel, family: ModelFamily, width: Width, *, centred: bool) -> None:
    """Make the stream zero in R, in place, keeping the shapes: no writer writes there, no removed head writes at all.

    With `centred` (LayerNorm) the writers' mean over K goes too.
    """
    for slot in family.slots(model.config):
        if slot.role != "writer":
            continue
        weight = model.get_parameter(slot.parameter)
        weight.narrow(slot.axis, width.channels, weight.shape[slot.axis] - width.channels).zero_()
        if centred:
            take_mean(weight.narrow(slot.axis, 0, width.channels), slot.axis)
    if width.heads is not None:
        for head in family.head_slots(model.config):
            weight = model.get_parameter(head.parameter)
            start = width.heads * head.per_head
            weight.narrow(head.axis, start, weight.shape[head.axis] - start).zero_()


def cut_weights(
    model: PreTrainedModel, family: ModelFamily, width: Width, exact_norms: bool
) -> tuple[PreTrainedConfig, CutWeights]:
    """Config and tensors of the narrower model, which read the wide model's tensors whenever they are asked for.

    With `exact_norms` the narrow model gives what the wide one gave with a stream of zeros in R (METHOD §3):
    γ' = γ/c, ε' = ε/c²; or, where ε cannot change, writers W' = cW and γ' = γ/c with ε as it was. What β sent through
    R's columns of a reader is kept as well. Without, norms are cut as the paper writes it (w' = Sw).
    """
    config = model.config
    narrow = family.narrowed(config, width.channels)
    weights = CutWeights(model)
    for slot in family.slots(config):
        weights.keep(slot.parameter, slot.axis, width.channels)  # Eqs. 8-10
    if exact_norms:
        _keep_statistics(model, family, width.channels, narrow, weights)
        if family.norm == "layer":
            _keep_shifts(model, family, width.channels, weights)
    if width.heads is None:
        return with_modelling_file(narrow, family.narrow_type(config)), weights
    for head in family.head_slots(config):
        weights.keep(head.parameter, head.axis, width.heads * head.per_head)
    narrow.num_attention_heads = width.heads
    narrow = with_modelling_file(narrow, None)
    narrow.__dict__.pop("head_dim", None)  # hidden size over heads again
    return narrow, weights


def _keep_statistics(
    model: PreTrainedModel, family: ModelFamily, channels: int, narrow: PreTrainedConfig, weights: CutWeights
) -> None:
    """Rescale what the norms of the narrow model see and give."""
    config = model.config
    c = math.sqrt(channels / config.hidden_size)
    field = family.epsilon(config)
    if field is not None:
        setattr(narrow, field, getattr(config, field) / c**2)
    stream = 1.0 if field is not None else c  # by how much the narrow model's stream is larger
    embedding = _embedding_name(model)
    for slot in family.slots(config):
        is_gain = slot.role in ("norm", "post_norm") and slot.parameter.endswith("weight")
        if slot.role == "writer":
            scaled = 1 / c if family.embeddings_scaled and slot.parameter == embedding else 1.0
            weights.change(slot.parameter, _times(stream * scaled))
        elif slot.role == "bare_reader":
            weights.change(slot.parameter, _times(1 / stream))
        elif is_gain:
            after = stream if slot.role == "post_norm" else 1.0  # a post-norm gives to the stream
            weights.change(slot.parameter, _times(after / c, family.norm_offset))
        elif slot.role == "post_norm":
            weights.change(slot.parameter, _times(stream))
    if is_tied(config):
        _scale_final(model, family, weights, 1 / (stream * (1 / c if family.embeddings_scaled else 1.0)))


def _times(factor: float, offset: float = 0.0) -> Change:
    """w ← w·factor for stored values w - offset."""
    if factor == 1.0:
        return lambda tensor: tensor
    return lambda tensor: (tensor + offset) * factor - offset if offset else tensor * factor


def _scale_final(model: PreTrainedModel, family: ModelFamily, weights: CutWeights, factor: float) -> None:
    """Undo at the final norm what the embedding's scale did to a head that is the same tensor."""
    norm = family.sites(model.config)[-1].norm
    weights.change(f"{norm}.weight", _times(factor, family.norm_offset))
    if f"{norm}.bias" in weights:
        weights.change(f"{norm}.bias", _times(factor))


def _embedding_name(model: PreTrainedModel) -> str:
    embedding = model.get_input_embeddings()
    return next(f"{name}.weight" for name, module in model.named_modules() if module is embedding)


def _keep_shifts(model: PreTrainedModel, family: ModelFamily, channels: int, weights: CutWeights) -> None:
    """Keep W_R β_R, what a LayerNorm's β sends through the removed columns of its readers.

    It goes into the readers' biases; where one has none, the whole shift Wβ rides on the direction 1, which the
    narrow LayerNorm's output does not have once γ is folded: W' ← W'diag(γ')(I - 11ᵀ/d') + (Wβ)1ᵀ/√d', γ' = 1,
    β' = 1/√d' (METHOD §3). A tied head can carry none, so there W_R β_R is lost.
    """
    for site in family.sites(model.config):
        shift = model.get_parameter(f"{site.norm}.bias").detach()
        if not shift.any() or any(f"{reader}.weight" not in weights for reader in site.readers):
            continue
        readers = {reader: model.get_parameter(f"{reader}.weight").detach() for reader in site.readers}
        if all(f"{reader}.bias" in weights for reader in readers):
            for reader, weight in readers.items():
                weights.change(f"{reader}.bias", _plus_shift(weight[:, channels:], shift[channels:]))
            continue
        gain = weights[f"{site.norm}.weight"] + family.norm_offset
        for reader, weight in readers.items():
            weights.change(f"{reader}.weight", _carrying(gain, weight, shift))
        weights.change(f"{site.norm}.weight", lambda tensor: torch.full_like(tensor, 1.0 - family.norm_offset))
        weights.change(f"{site.norm}.bias", lambda tensor: torch.full_like(tensor, len(tensor) ** -0.5))


def _plus_shift(weight: Tensor, shift: Tensor) -> Change:
    return lambda bias: bias + weight @ shift


def _carrying(gain: Tensor, weight: Tensor, shift: Tensor) -> Change:
    """The reader of the narrow model with γ' folded in and Wβ of the wide one on the direction 1."""

    def change(kept: Tensor) -> Tensor:
        folded = kept * gain
        return folded - folded.mean(1, keepdim=True) + (weight @ shift)[:, None] / kept.shape[1] ** 0.5

    return change
