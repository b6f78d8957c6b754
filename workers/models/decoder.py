"""The layout most RMSNorm families share: blocks of attention and a gated FFN on one stream, named as Llama names them.

Families on this layout say what differs: which norms stand where, which modules read, which config field gives biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workers.models.family import (
    Config,
    HeadSlot,
    Slot,
    StreamSite,
    at_width,
    is_tied,
    linear,
    readers,
    refuse_quantized,
)

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens", "model.norm", "lm_head"


@dataclass(frozen=True)
class Branch:
    """Half of a block: what reads the stream, what adds to it, and the norms around. Names begin at the block."""

    readers: tuple[str, ...]
    writer: str
    norm: str | None = None
    """The norm before the readers; none where they take the stream as it stands."""
    post_norm: str | None = None
    """The norm between the writer and the stream."""
    entrance: str = ""
    """Where `norm` is none: the module whose first input is the stream; empty for the block itself."""
    bias: str | None = None
    """The config's field that gives every linear module of the branch a bias; none if they never have one."""


ATTENTION_READERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
FFN_READERS = ("mlp.gate_proj", "mlp.up_proj")

ATTENTION = Branch(ATTENTION_READERS, "self_attn.o_proj", "input_layernorm")
FEED_FORWARD = Branch(FFN_READERS, "mlp.down_proj", "post_attention_layernorm")


class Decoder:
    """A `ModelFamily` of the common layout, exported natively; subclasses change what their architecture does."""

    model_type: str
    norm: Literal["rms", "layer"] = "rms"
    norm_offset = 0.0
    embeddings_scaled = False
    defaults: Mapping[str, Any]
    stored_names: Mapping[str, str] = {}
    block_list = "model.layers"
    branches: tuple[Branch, ...] = (ATTENTION, FEED_FORWARD)
    """The halves of a block, in the order in which they run."""

    def check(self, config: Config) -> None:
        """Quantized weights are refused: rotating and cutting need numbers.

        Raises:
            RecipeError: see `ModelFamily.check`.
        """
        refuse_quantized(config)

    def slots(self, config: Config) -> list[Slot]:
        """See `ModelFamily.slots`. The biases of readers do not touch the stream, nor do norms of queries and keys."""
        slots = [Slot(f"{EMBEDDING}.weight", 1, "writer")]
        for block, branch in self._branches(config):
            has_bias = branch.bias is not None and bool(getattr(config, branch.bias))
            if branch.norm:
                slots.append(Slot(f"{block}.{branch.norm}.weight", 0, "norm"))
            slots += readers(block, branch.readers, "reader" if branch.norm else "bare_reader")
            slots += linear(f"{block}.{branch.writer}", 0, "writer", has_bias)
            if branch.post_norm:
                slots.append(Slot(f"{block}.{branch.post_norm}.weight", 0, "post_norm"))
        slots.append(Slot(f"{FINAL_NORM}.weight", 0, "norm"))
        return slots if is_tied(config) else [*slots, Slot(f"{HEAD}.weight", 1, "reader")]

    def head_slots(self, config: Config) -> list[HeadSlot]:
        """None: stock code keeps the heads at any width."""
        return []

    def sites(self, config: Config) -> list[StreamSite]:
        """See `ModelFamily.sites`."""
        sites = []
        for block, branch in self._branches(config):
            norm = f"{block}.{branch.norm}" if branch.norm else None
            entrance = f"{block}.{branch.entrance}" if branch.entrance else block
            sites.append(StreamSite(norm or entrance, norm, tuple(f"{block}.{name}" for name in branch.readers)))
        return [*sites, StreamSite(FINAL_NORM, FINAL_NORM, (HEAD,))]

    def width_multiple(self, config: Config) -> int:
        """Any width: stock code reads `head_dim` and refuses none."""
        return 1

    def epsilon(self, config: Config) -> str | None:
        """All norms stand on the stream, or between a writer and it."""
        return "rms_norm_eps"

    def narrow_type(self, config: Config) -> str | None:
        """Stock code reads `head_dim`."""
        return None

    def narrowed(self, config: Config, width: int) -> Config:
        """See `ModelFamily.narrowed`. Rotary positions follow from `head_dim`, so they stay as they are."""
        return at_width(config, width)

    def _branches(self, config: Config) -> Iterator[tuple[str, Branch]]:
        """The dotted name of a block with each of its branches, in the order of the layers."""
        for layer in range(config.num_hidden_layers):
            for branch in self.branches:
                yield f"model.layers.{layer}", branch
