"""The basis of the residual stream: fold the norms, learn what the stream carries and what the loss heeds, rotate.

Legend: d = hidden size, x_t in R^d = the stream at token t, z_t = x_t as its norm normalizes it, γ, β in R^d = a norm's
weight and bias, g_t = the gradient of the loss by z_t, C = mean z zᵀ, G = mean g gᵀ, 1 = the all-ones vector,
Q in R^(d x d) = orthogonal, columns = new axes by falling importance. Why rotate: METHOD §4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily, is_tied


@dataclass(frozen=True)
class StreamStatistics:
    """What the stream carries and what the loss is sensitive to, pooled over tokens and sites."""

    activation: Tensor
    """C: mean of z zᵀ, float64 [d, d]."""
    gradient: Tensor
    """G: mean of g gᵀ, float64 [d, d]; zeros where it was not asked for."""


def untie_head(model: PreTrainedModel) -> None:
    """Give the head a tensor of its own, since folding or rotating must change it apart from the embedding."""
    if not is_tied(model.config):
        return
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False


@torch.no_grad()
def fold_norms(model: PreTrainedModel, family: ModelFamily) -> None:
    """Move every γ and β into the readers behind it, leaving γ = 1. The function is unchanged.

    W ← W·diag(γ), bias ← bias + Wβ. Where a reader has no bias, the shift Wβ rides on the direction 1, which no
    LayerNorm's output has: W ← W·diag(γ)·(I - 11ᵀ/d) + (Wβ)1ᵀ/√d and β ← 1/√d (METHOD §3). LayerNorm families also
    get their writers centred, which LayerNorm cannot see. The head must be untied first.
    """
    for site in family.sites(model.config):
        if site.norm is None:
            continue
        norm = model.get_submodule(site.norm)
        readers = [model.get_submodule(reader) for reader in site.readers]
        gain = norm.weight + family.norm_offset
        shift = getattr(norm, "bias", None)
        if shift is None:
            for reader in readers:
                reader.weight.mul_(gain)
        else:
            fold_shift(readers, gain, shift)
        norm.weight.fill_(1.0 - family.norm_offset)
    if family.norm == "layer":
        centre_writers(model, family)


def fold_shift(readers: list[nn.Linear], gain: Tensor, shift: nn.Parameter) -> None:
    """Move γ and β of a LayerNorm into its readers; see `fold_norms`."""
    shifts = [reader.weight @ shift for reader in readers]
    for reader in readers:
        reader.weight.mul_(gain)
    if all(reader.bias is not None for reader in readers):
        for reader, moved in zip(readers, shifts, strict=True):
            reader.bias.add_(moved)
        shift.zero_()
        return
    width = len(shift)
    for reader, moved in zip(readers, shifts, strict=True):
        weight = reader.weight
        weight.sub_(weight.mean(1, keepdim=True)).add_(moved[:, None] / width**0.5)
    shift.fill_(width**-0.5)


def centre_writers(model: PreTrainedModel, family: ModelFamily) -> None:
    """Take the mean over the channels from every writer: the first thing that any LayerNorm does."""
    for slot in family.slots(model.config):
        if slot.role == "writer":
            weight = model.get_parameter(slot.parameter)
            weight.sub_(weight.mean(slot.axis, keepdim=True))


@contextmanager
def _watched(
    model: PreTrainedModel, family: ModelFamily, seen: dict[int, Tensor], felt: dict[int, Tensor]
) -> Iterator[None]:
    """While the block runs, each pass leaves z ([tokens, d]) and, after backward, g of every site."""
    hooks = []

    def entering(number: int) -> object:
        def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[number] = normalized(inputs[0].detach(), family)

        return watch

    def leaving(number: int) -> object:
        def watch(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: felt.__setitem__(number, gradient.detach()))

        return watch

    for number, site in enumerate(family.sites(model.config)):
        hooks.append(model.get_submodule(site.module).register_forward_pre_hook(entering(number)))
        if site.norm is not None:
            hooks.append(model.get_submodule(site.norm).register_forward_hook(leaving(number)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def normalized(stream: Tensor, family: ModelFamily) -> Tensor:
    """z [tokens, d], float32: each token as the family's norm normalizes it, without γ and β."""
    stream = stream.reshape(-1, stream.shape[-1]).float()
    if family.norm == "layer":
        stream = stream - stream.mean(-1, keepdim=True)
    return stream * stream.pow(2).mean(-1, keepdim=True).clamp_min(1e-12).rsqrt()


def stream_statistics(
    model: PreTrainedModel, family: ModelFamily, batches: Iterable[Tensor], *, gradients: bool = False, seed: int = 0
) -> StreamStatistics:
    """C and, if asked for, G of a model, whose γ must be constant over the channels for G to be meant as here.

    The gradients are those of the log-likelihood of tokens drawn from the model itself (the Fisher information), summed
    over positions.

    Args:
        batches: token ids, each [batch, length].
    """
    width = model.config.hidden_size
    totals = [torch.zeros(width, width, dtype=torch.float64) for _ in range(2)]
    counts = [0, 0]
    seen: dict[int, Tensor] = {}
    felt: dict[int, Tensor] = {}
    random = torch.Generator(model.device).manual_seed(seed)
    with _watched(model, family, seen, felt), torch.set_grad_enabled(gradients):
        for batch in batches:
            logits = model(input_ids=batch.to(model.device), use_cache=False).logits
            if gradients:
                _own_likelihood(logits, random).backward()
                model.zero_grad(set_to_none=True)
            for place, found in enumerate((seen, felt)):
                for vectors in found.values():
                    rows = vectors.reshape(-1, width).float()
                    totals[place] += (rows.T @ rows).double().cpu()
                    counts[place] += len(rows)
                found.clear()
    return StreamStatistics(*(total / max(1, count) for total, count in zip(totals, counts, strict=True)))


def _own_likelihood(logits: Tensor, random: torch.Generator) -> Tensor:
    """-log p of tokens drawn from the logits, summed."""
    flat = logits.flatten(0, -2).float()
    drawn = torch.multinomial(flat.detach().softmax(-1), 1, generator=random)
    return F.cross_entropy(flat, drawn[:, 0], reduction="sum")


def importance(statistics: StreamStatistics, sensitivity: float) -> Tensor:
    """(1 - s)·C/tr C + s·G/tr G, float64 [d, d]: what the axes are the eigenvectors of."""
    activation = statistics.activation / statistics.activation.trace()
    if sensitivity == 0:
        return activation
    return (1 - sensitivity) * activation + sensitivity * statistics.gradient / statistics.gradient.trace()


def principal_axes(matrix: Tensor) -> Tensor:
    """Eigenvectors [d, d] of a symmetric matrix, columns by falling eigenvalue, their signs fixed."""
    _values, vectors = torch.linalg.eigh(matrix)
    vectors = vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


def centred_axes(matrix: Tensor) -> Tensor:
    """As `principal_axes`, within the directions orthogonal to 1, which no LayerNorm lets through: [d, d - 1]."""
    frame = helmert(len(matrix))
    return frame @ principal_axes(frame.T @ matrix @ frame)


def helmert(width: int) -> Tensor:
    """H, float64 [d, d - 1]: orthonormal columns ⊥ 1, the first k of them supported on the first k + 1 channels.

    So the first d' channels, centred among themselves, are spanned by the first d' - 1 columns for every d'.
    """
    counts = torch.arange(1, width, dtype=torch.float64)
    lower = torch.ones(width, width - 1, dtype=torch.float64).triu()
    lower[1:].diagonal().copy_(-counts)
    return lower / (counts * (counts + 1)).sqrt()


def embedded(axes: Tensor) -> Tensor:
    """Q for a LayerNorm family, float64 [d, d]: axis k becomes column k of `helmert`, and Q1 = 1.

    LayerNorm commutes with Q because Q leaves 1 as it is; cutting the last channels, centred, cuts the last axes.
    """
    width = len(axes)
    return axes @ helmert(width).T + torch.full((width, width), 1.0 / width, dtype=torch.float64)


@torch.no_grad()
def rotate(model: PreTrainedModel, family: ModelFamily, axes: Tensor) -> None:
    """Express the stream in new axes: writers W ← QᵀW, readers W ← WQ. The function is unchanged.

    Every γ must be constant over the channels, every β a multiple of 1 (see `fold_norms`).
    """
    for slot in family.slots(model.config):
        if slot.role == "norm":
            continue
        tensor = model.get_parameter(slot.parameter)
        turn = axes.to(tensor.device if tensor.device.type == "cuda" else "cpu")
        moved = tensor.detach().to(torch.float64).movedim(slot.axis, -1)
        tensor.copy_((moved @ turn).movedim(-1, slot.axis))


@torch.no_grad()
def reorder(model: PreTrainedModel, family: ModelFamily, order: Tensor) -> None:
    """Put the channels into another order ([d] indices), in every tensor, norms included. The function is unchanged."""
    for slot in family.slots(model.config):
        tensor = model.get_parameter(slot.parameter)
        tensor.copy_(tensor.index_select(slot.axis, order.to(tensor.device)))


@torch.no_grad()
def reorder_heads(model: PreTrainedModel, family: ModelFamily, order: Tensor) -> None:
    """Put each layer's attention heads into another order ([layers, heads] indices). The function is unchanged."""
    for slot in family.head_slots(model.config):
        tensor = model.get_parameter(slot.parameter)
        rows = (order[slot.layer, :, None] * slot.per_head + torch.arange(slot.per_head)).flatten()
        tensor.copy_(tensor.index_select(slot.axis, rows.to(tensor.device)))


@torch.no_grad()
def weight_gram(model: PreTrainedModel, family: ModelFamily) -> Tensor:
    """Σ over slots of W Wᵀ along the stream, float64 [d, d]; its diagonal is each channel's squared magnitude."""
    width = model.config.hidden_size
    total = torch.zeros(width, width, dtype=torch.float64)
    for slot in family.slots(model.config):
        tensor = model.get_parameter(slot.parameter).detach()
        if slot.role in ("norm", "post_norm"):
            offset = family.norm_offset if slot.parameter.endswith("weight") else 0.0
            total += torch.diag((tensor + offset).double().pow(2).cpu())
        else:
            rows = tensor.movedim(slot.axis, -1).reshape(-1, width).float()
            total += (rows.T @ rows).double().cpu()
    return total
