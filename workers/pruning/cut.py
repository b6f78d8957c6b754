"""The cut: remove the last channels of the residual stream from every tensor that touches it (DReSS Eqs. 8-10).

Legend: d = hidden size, d' = the width kept, R = {d', …, d-1} the channels removed, S = I - R those kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.models.family import ModelFamily


@torch.no_grad()
def zero_removed(model: PreTrainedModel, family: ModelFamily, kept: int) -> None:
    """Set the removed part of every slot to zero, keeping the shapes."""
    for slot in family.slots(model.config):
        parameter = model.get_parameter(slot.parameter)
        parameter.narrow(slot.axis, kept, parameter.shape[slot.axis] - kept).zero_()


@torch.no_grad()
def cut_weights(
    model: PreTrainedModel, family: ModelFamily, kept: int, exact_norms: bool
) -> tuple[PreTrainedConfig, dict[str, Tensor]]:
    """Config and tensors of the narrower model; tensors that do not touch the stream are shared, not copied.

    With `exact_norms`, γ' = γ·√(d/d') and ε' = ε·d/d': a stock RMSNorm of width d' then gives what the wide one gave
    with zeros in R (METHOD §3). Without, norms are cut as the paper writes it (w' = Sw) and their scale jumps.
    """
    config, width = model.config, model.config.hidden_size
    widening = width / kept if exact_norms else 1.0
    slots = {slot.parameter: slot for slot in family.slots(config)}
    weights = {}
    for name, parameter in model.named_parameters():
        slot = slots.get(name)
        weights[name] = parameter.detach()
        if slot is not None:
            weights[name] = weights[name].narrow(slot.axis, 0, kept).clone()  # DReSS Eqs. 8-10: SW, WS
            if slot.role == "norm":
                weights[name] *= widening**0.5
    return family.narrowed(config, kept, widening), weights
