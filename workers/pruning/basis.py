"""The basis of the residual stream: fold the norms, measure the stream's covariance, rotate to its principal axes.

Legend: d = hidden size, x_t in R^d = the stream before a norm at token t, γ in R^d = a norm's weight,
Q in R^(d x d) = orthogonal, columns = new axes by falling variance. Why this basis: METHOD §4.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily


def untie_head(model: PreTrainedModel) -> None:
    """Give the head a tensor of its own, since folding or rotating must change it apart from the embedding."""
    if not model.config.tie_word_embeddings:
        return
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False


@torch.no_grad()
def fold_norms(model: PreTrainedModel, family: ModelFamily) -> None:
    """Move every γ into the readers behind it, leaving ones: W ← W·diag(γ). The function is unchanged.

    The head must be untied first: it takes the last norm's γ, the embedding does not.
    """
    for site in family.norm_sites(model.config):
        norm = model.get_submodule(site.norm)
        for reader in site.readers:
            model.get_submodule(reader).weight.mul_(norm.weight)
        norm.weight.fill_(1.0)


@torch.no_grad()
def stream_covariance(model: PreTrainedModel, family: ModelFamily, batches: Iterable[Tensor]) -> Tensor:
    """Pooled covariance of the normalized stream, each token divided by its RMS, over every norm site.

    Args:
        batches: token ids, each [batch, length].
    Returns:
        float64 [d, d], the mean of x xᵀ over tokens and sites.
    """
    width = model.config.hidden_size
    total = torch.zeros(width, width, dtype=torch.float64)
    tokens = 0

    def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal tokens
        stream = inputs[0].reshape(-1, width).float()
        stream = stream * stream.pow(2).mean(-1, keepdim=True).clamp_min(1e-12).rsqrt()
        total.add_((stream.T @ stream).double().cpu())
        tokens += len(stream)

    hooks = [model.get_submodule(site.norm).register_forward_pre_hook(add) for site in family.norm_sites(model.config)]
    try:
        for batch in batches:
            model(input_ids=batch.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return total / tokens


def principal_axes(covariance: Tensor) -> Tensor:
    """Eigenvectors [d, d] of a covariance, columns by falling eigenvalue, their signs fixed."""
    _values, vectors = torch.linalg.eigh(covariance)
    vectors = vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


@torch.no_grad()
def rotate(model: PreTrainedModel, family: ModelFamily, axes: Tensor) -> None:
    """Express the stream in new axes: writers W ← QᵀW, readers W ← WQ. The function is unchanged.

    Every norm's γ must be constant over the channels (see `fold_norms`).
    """
    for slot in family.slots(model.config):
        if slot.role == "norm":
            continue
        tensor = model.get_parameter(slot.parameter)
        moved = tensor.detach().to("cpu", torch.float64).movedim(slot.axis, -1)
        tensor.copy_((moved @ axes).movedim(-1, slot.axis))
