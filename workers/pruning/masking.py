"""The model as it would be if it were cut now: its writers silenced beyond the width kept, its weights as they are.

A norm that divides by all d channels, of which those beyond d' are zero, gives what the rescaled norm of the cut model
gives (METHOD §3), so nothing but the writers' outputs need change, in any family.

Legend: B = batch size, L = sequence length, d = hidden size, d' = the width kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import HeadSlot, ModelFamily, is_tied, writer_modules
from workers.models.width import Width


def silenced(output: Tensor, mask: Tensor, *, centred: bool) -> Tensor:
    """A writer's output [..., d], zero where the mask is.

    Args:
        mask: 1 on the channels kept and 0 elsewhere, of a shape that goes with the output's.
        centred: LayerNorm, which takes the mean over the channels kept alone: it goes too.
    """
    mask = mask.to(output.dtype)
    masked = output * mask
    if centred:
        masked = masked - mask * (masked.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True))
    return masked


@contextmanager
def masked_to(width: Width, model: PreTrainedModel, family: ModelFamily) -> Iterator[None]:
    """While the block runs, the model computes what `cut.cut_weights` with exact norms would leave of it.

    Heads that go along are silenced too, and so is what a LayerNorm sends to a head that is the embedding, which can
    keep no shift. In float64 both models agree to rounding, whatever the weights are.
    """
    config = model.config
    mask = (torch.arange(config.hidden_size, device=model.device) < width.channels).float()
    centred = family.norm == "layer"

    def write(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return silenced(output, mask, centred=centred)

    def send(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * mask.to(output.dtype)

    with ExitStack() as hooks:
        for name in writer_modules(family, config):
            hooks.enter_context(model.get_submodule(name).register_forward_hook(write))
        if centred and is_tied(config):
            final = family.sites(config)[-1].norm
            hooks.enter_context(model.get_submodule(final or "").register_forward_hook(send))
        if width.heads is not None:
            for slot in family.head_slots(config):
                if slot.axis == 1:  # what brings the heads' outputs together
                    module = model.get_submodule(slot.parameter.removesuffix(".weight"))
                    hooks.enter_context(module.register_forward_pre_hook(_without_heads(slot, width.heads)))
        yield


def _without_heads(slot: HeadSlot, kept: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def bring(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        there = torch.arange(inputs[0].shape[-1], device=inputs[0].device) < kept * slot.per_head
        return inputs[0] * there.to(inputs[0].dtype), *inputs[1:]

    return bring
