"""The tensors of a sliced model: norms folded, every site in axes of its own, shortcuts between the axes.

Legend: d = hidden size, d' = the width kept, site s = a norm with its readers, Q_s [d, d'] = its axes, γ, β = its
norm's weight and bias, C = I - 11ᵀ/d for LayerNorm, else I, b = a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workers.models.family import ModelFamily

SHORTCUTS = ("attn_shortcut", "mlp_shortcut")
"""Names of a block's shortcut matrices, as the modelling files have them; a block with one norm has the first."""


class SlicedWeights(Mapping[str, Tensor]):
    """The sliced model's tensors by name, each made when it is asked for, in float64, and given in the model's type.

    Readers W·diag(γ)·Q_s with b + Wβ, writers Q_sᵀCW with Q_sᵀCb (embeddings WCQ_s), shortcuts Q_sᵀQ_{s+1}.
    """

    def __init__(self, model: PreTrainedModel, family: ModelFamily, axes: list[Tensor]) -> None:
        """The model must not change before all is read.

        Args:
            axes: Q of each of the family's sites, [d, d'].
        """
        self._makers: dict[str, Callable[[], Tensor]] = {}
        self._axes = axes
        sites = family.sites(model.config)
        norms = {f"{site.norm}.weight": number for number, site in enumerate(sites)}
        site = 0
        for slot in family.slots(model.config):
            site = norms.get(slot.parameter, -1) + 1 or site  # what is written after a norm, the next site reads
            if slot.role == "writer":
                tensor = model.get_parameter(slot.parameter)
                self._makers[slot.parameter] = partial(self._writer, tensor, slot.axis, site, family.norm == "layer")
        for number in range(len(sites)):
            self._add_site(model, family, number)
        folded = {slot.parameter for slot in family.slots(model.config) if slot.role == "norm"}
        for name, parameter in model.named_parameters():
            if name not in folded:
                self._makers.setdefault(name, parameter.detach)

    def _add_site(self, model: PreTrainedModel, family: ModelFamily, number: int) -> None:
        """The readers of a site, and the shortcut from it to the next."""
        sites = family.sites(model.config)
        norm = model.get_submodule(sites[number].norm or "")
        gain, shift = norm.weight + family.norm_offset, getattr(norm, "bias", None)
        for name in sites[number].readers:
            reader = model.get_submodule(name)
            self._makers[f"{name}.weight"] = partial(self._reader, reader.weight, gain, number)
            if shift is not None:
                self._makers[f"{name}.bias"] = partial(_shifted, reader.weight, reader.bias, shift)
        if number + 1 < len(sites):
            block = sites[number].module.rpartition(".")[0]
            is_second = number > 0 and sites[number - 1].module.startswith(f"{block}.")
            self._makers[f"{block}.{SHORTCUTS[is_second]}"] = partial(self._shortcut, model.dtype, number)

    def _writer(self, weight: Tensor, axis: int, site: int, is_centred: bool) -> Tensor:
        moved = weight.detach().double().movedim(axis, -1)
        if is_centred:
            moved = moved - moved.mean(-1, keepdim=True)
        return (moved @ self._axes[site].to(moved)).movedim(-1, axis).to(weight.dtype)

    def _reader(self, weight: Tensor, gain: Tensor, site: int) -> Tensor:
        folded = weight.detach().double() * gain.detach().double()
        return (folded @ self._axes[site].to(folded)).to(weight.dtype)

    def _shortcut(self, dtype: torch.dtype, site: int) -> Tensor:
        return (self._axes[site].double().T @ self._axes[site + 1].double()).to(dtype)

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _shifted(weight: Tensor, bias: Tensor | None, shift: Tensor) -> Tensor:
    """b + Wβ."""
    moved = weight.detach().double() @ shift.detach().double()
    return (moved if bias is None else moved + bias.detach().double()).to(weight.dtype)
