"""Elastic training: every sequence of a batch sees the model at a width of its own, so that one run serves many ratios.

The channels stand in the order of falling importance, so a narrower model is the beginning of every wider one, as in
nested (slimmable) networks. Masking a writer's output beyond width d' gives exactly the model cut there, since the
norms of the cut model divide as if the missing channels were zero (METHOD §3).

Legend: B = batch size, L = sequence length, d = hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily, writer_modules
from workers.pruning.groups import IdleRider
from workers.pruning.masking import silenced


class ElasticWidths(IdleRider):
    """A rider of the training loop that draws widths and masks the writers' outputs; nothing is driven to zero."""

    def __init__(self, widths: Sequence[int], full_width: int, seed: int, *, centred: bool) -> None:
        """`centred`: LayerNorm, where the mean over the kept channels vanishes too."""
        self._widths = torch.tensor(sorted(widths))
        self._channels = torch.arange(full_width)
        self._seed, self._centred = seed, centred
        self._random = torch.Generator()
        self._mask: Tensor | None = None

    def before_step(self, step: int) -> None:
        """The step alone decides the widths, so that a resumed run draws the same."""
        self._random.manual_seed(self._seed * 1_000_003 + step)

    def draw(self, batch_size: int, device: torch.device) -> None:
        """A width for each sequence: all widths equally often, from a random place in their order on."""
        first = torch.randint(len(self._widths), (1,), generator=self._random)
        widths = self._widths[(first + torch.arange(batch_size)) % len(self._widths)]
        self._mask = (self._channels < widths[:, None]).float().to(device)[:, None]  # [B, 1, d]

    @property
    def mask(self) -> Tensor | None:
        """1 on the channels that each sequence keeps: [B, 1, d]; none before the first draw."""
        return self._mask

    def masked(self, output: Tensor) -> Tensor:
        """A writer's output [B, L, d] or [B·L, d] (OPT's FFN), zero beyond each sequence's width."""
        if self._mask is None:
            return output
        by_sequence = output.reshape(len(self._mask), -1, output.shape[-1])
        return silenced(by_sequence, self._mask, centred=self._centred).view(output.shape)

    @contextmanager
    def riding(self, model: PreTrainedModel, family: ModelFamily) -> Iterator[None]:
        """While the block runs, the model's training passes are masked; its evaluation passes are not."""
        embedding = model.get_input_embeddings()

        def mask(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not model.training:
                return None
            if module is embedding:
                self.draw(len(output), output.device)
            return self.masked(output)

        hooks = [model.get_submodule(name).register_forward_hook(mask) for name in writer_modules(family, model.config)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
