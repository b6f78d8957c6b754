"""Which channels go, and which heads: orders by falling importance, so that what goes stands last.

Legend: d = hidden size, H = attention heads.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily, head_dim_of
from workers.pruning.basis import StreamStatistics, weight_gram


def channel_order(
    by: str, model: PreTrainedModel, family: ModelFamily, seed: int, statistics: StreamStatistics | None = None
) -> Tensor:
    """The channels as they stand, by falling importance: indices [d].

    Args:
        by: `random`, `magnitude` (‖w_g‖₂ over all slots) or `activation` (mean square of the normalized stream).
        statistics: wanted by `activation`.
    """
    if by == "random":
        return torch.randperm(model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    if by == "magnitude":
        return weight_gram(model, family).diagonal().argsort(descending=True, stable=True)
    assert statistics is not None  # noqa: S101  looked at before, see `DressSettings.for_covariance`
    return statistics.activation.diagonal().argsort(descending=True, stable=True)


def axes_order(by: str, axes: Tensor, model: PreTrainedModel, family: ModelFamily, seed: int) -> Tensor:
    """The axes ([d, n], columns) in another order: `random`, or by falling `magnitude` of the weights along them."""
    if by == "random":
        return axes[:, torch.randperm(axes.shape[1], generator=torch.Generator().manual_seed(seed))]
    along = (axes * (weight_gram(model, family) @ axes)).sum(0)
    return axes[:, along.argsort(descending=True, stable=True)]


@torch.no_grad()
def head_order(model: PreTrainedModel, family: ModelFamily, batches: Iterable[Tensor]) -> Tensor:
    """Each layer's heads by falling energy of what they add to the stream, E‖W_h a_h‖²: indices [layers, H]."""
    outputs = [slot for slot in family.head_slots(model.config) if slot.axis == 1]
    size = head_dim_of(model.config)
    moments: dict[int, Tensor] = {}

    def watching(layer: int) -> object:
        def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            heads = inputs[0].reshape(-1, inputs[0].shape[-1] // size, size).float()  # [tokens, H, head size]
            moment = torch.einsum("nhi,nhj->hij", heads, heads).double().cpu()
            moments[layer] = moments.get(layer, 0.0) + moment

        return watch

    hooks = [
        model.get_submodule(slot.parameter.removesuffix(".weight")).register_forward_pre_hook(watching(slot.layer))
        for slot in outputs
    ]
    try:
        for batch in batches:
            model(input_ids=batch.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    orders = []
    for slot in outputs:
        weight = model.get_parameter(slot.parameter).double().cpu()
        if family.norm == "layer":
            weight = weight - weight.mean(0, keepdim=True)  # LayerNorm lets no mean through
        weight = weight.view(len(weight), -1, size)  # [d, H, head size]
        energy = torch.einsum("dhi,hij,dhj->h", weight, moments[slot.layer], weight)
        orders.append(energy.argsort(descending=True, stable=True))
    return torch.stack(orders)
