"""Hidden channels cut at once, without training: what `magnitude` and `random` share.

The channels stand as they are, in an order that puts those that go last; the cut is that of DReSS, and so is the width.

Legend: d = hidden size, d' = the width kept, R = {d', …, d-1} the channels removed, K = those kept.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.contracts.rivals import MagnitudeSettings, RandomSettings
from workers.models.family import ModelFamily, is_tied
from workers.models.width import width_of
from workers.pruning.basis import reorder, reorder_heads, untie_head
from workers.pruning.cut import cut_weights, zero_removed
from workers.pruning.method import (
    CHANNELS_CUT,
    Narrowed,
    Preparation,
    Regularization,
    calibration,
    nothing_to_prepare,
)
from workers.pruning.order import channel_order, head_order
from workers.training.loop import Step

Settings = MagnitudeSettings | RandomSettings


class ChannelsAtOnce:
    """A method that orders the channels by one rule, named as its settings' `kind`, and cuts the last."""

    leaves_zeros = False
    cut_in_words = CHANNELS_CUT

    def check(self, settings: Settings, family: ModelFamily, config: PreTrainedConfig) -> None:
        """See `Method.check`."""
        width_of(settings, family, config)

    def prepare(
        self, settings: Settings, family: ModelFamily, task: Preparation
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """The `order` of the channels, [d], and `heads` [layers, heads] where heads go along; see `order`."""
        yield from nothing_to_prepare()
        model = task.model.eval()
        found = {"order": channel_order(settings.kind, model, family, task.seed)}
        if width_of(settings, family, model.config).heads is not None:
            found["heads"] = head_order(model, family, calibration(task.sequences))
        return found

    def regularize(self, settings: Settings, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Put what goes last, which changes no logit; nothing is trained."""
        reorder(task.model, family, task.prepared["order"])
        if "heads" in task.prepared:
            reorder_heads(task.model, family, task.prepared["heads"])
        yield from ()

    @torch.no_grad()
    def zero(
        self, settings: Settings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> None:
        """Make the stream zero in R. See `Method.zero`.

        A LayerNorm of the cut model takes the mean over K alone, so here the writers' mean over K goes too: then the
        cut itself changes nothing, and what it costs shows as the cost of zeroing. A tied head is given a tensor of its
        own first, since the cut centres no head.
        """
        width = width_of(settings, family, model.config)
        centred = family.norm == "layer"
        if centred and is_tied(model.config):
            untie_head(model)
            model.get_output_embeddings().weight[:, width.channels :].zero_()
        zero_removed(model, family, width, centred=centred)

    def cut(
        self, settings: Settings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> Narrowed:
        """Remove R, as DReSS does (Eqs. 8-10). See `Method.cut`."""
        return Narrowed(*cut_weights(model, family, width_of(settings, family, model.config), settings.exact_norms))
