"""Rows and columns of linear layers that a cut left zero: how they stay so, and how large a model is without them.

Legend: W [m, n] = a linear layer's weight; W + s·B·A = the same with an adapter, A [r, n], B [m, r].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers import stored_model
from workers.models.family import Config, ModelFamily, block_linears
from workers.pruning.groups import IdleRider

Mask = tuple[int, Tensor]
"""An axis of a parameter, and which places along it stay zero."""


class ZerosKept(IdleRider):
    """A rider that keeps every row and column of a linear layer zero that is zero when it mounts.

    Where layers have adapters, it is A's columns and B's rows that are held at zero, so that the merged weight has
    exact zeros there; elsewhere the weight's own. What is held has no gradient, so no moment and no part in clipping.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Mount before a checkpoint is loaded; sets to zero what an adapter starts with."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        self._held: dict[str, tuple[nn.Parameter, list[Mask]]] = {}
        for parameter, masks in _parts_of(model):
            held = [(axis, mask) for axis, mask in masks if mask.any()]
            if held:
                self._held[names[parameter]] = (parameter, held)
        self.after_step(-1)

    @torch.no_grad()
    def add_gradient(self, name: str, weight: nn.Parameter) -> None:
        """See `workers.training.loop.Rider`."""
        if weight.grad is not None and name in self._held:
            _zero(weight.grad, self._held[name][1])

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """See `workers.training.loop.Rider`."""
        for parameter, masks in self._held.values():
            _zero(parameter, masks)


def _parts_of(model: PreTrainedModel) -> Iterator[tuple[nn.Parameter, list[Mask]]]:
    """The parameters that are trained of each linear layer but the head, and what is to be held at zero of them."""
    head = model.get_output_embeddings()
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in adapted:
        rows, columns = _zero_lines(layer.get_base_layer().weight)
        for name in layer.active_adapters:
            yield layer.lora_A[name].weight, [(1, columns)]
            yield layer.lora_B[name].weight, [(0, rows)]
    if adapted:
        return
    for layer in (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head):
        rows, columns = _zero_lines(layer.weight)
        yield cast(nn.Parameter, layer.weight), [(0, rows), (1, columns)]
        if layer.bias is not None:
            yield layer.bias, [(0, rows & (layer.bias == 0))]


@torch.no_grad()
def _zero_lines(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows and which columns are zero throughout, masks [m] and [n]."""
    return ~weight.any(1), ~weight.any(0)


def _zero(tensor: Tensor, masks: list[Mask]) -> None:
    for axis, mask in masks:
        if axis == 0:
            tensor[mask] = 0
        else:
            tensor[:, mask] = 0


def nonzero_parameters(folder: Path, family: ModelFamily, config: Config) -> int:
    """Parameters of a checkpoint outside the rows and columns of the blocks' linear layers that are zero throughout.

    So many a model would have whose layers were reshaped to what is left of them. An entry of a bias is left out where
    it is zero and its row is. One tensor is held at a time.

    Raises:
        RecipeError: see `stored_model.tensors`.
        KeyError: the file names a layer in another way than the family does.
    """
    stored = stored_model.parameters(folder)
    absent = 0
    for name in block_linears(family, config):
        weight = _read(stored, f"{name}.weight")
        rows, columns = weight.any(1), weight.any(0)
        absent += weight.numel() - int(rows.sum()) * int(columns.sum())
        if f"{name}.bias" in stored:
            absent += int((~rows & (_read(stored, f"{name}.bias") == 0)).sum())
    return sum(tensor.elements for tensor in stored.values()) - absent


def _read(stored: dict[str, stored_model.StoredTensor], name: str) -> Tensor:
    with safe_open(stored[name].file, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor
