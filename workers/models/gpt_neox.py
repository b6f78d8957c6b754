"""GPT-NeoX and Pythia: LayerNorm, attention and FFN side by side or in turn, fused q, k, v, partial rotary positions.

The head size is hidden size over heads in stock code, so an export of another width needs a modelling file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.models.family import (
    Config,
    HeadSlot,
    Slot,
    StreamSite,
    at_width,
    head_dim_of,
    is_tied,
    layer_norm,
    linear,
    readers,
    refuse_quantized,
)

BRANCHES = (
    ("input_layernorm", "attention.query_key_value", "attention.dense"),
    ("post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
)
"""Norm, reader and writer of a block's attention and of its FFN."""

FINAL = "gpt_neox.final_layer_norm"


class GptNeoX:
    """The GPT-NeoX family; both residual layouts have the same slots."""

    model_type = "gpt_neox"
    norm = "layer"
    norm_offset = 0.0
    embeddings_scaled = False
    defaults: Mapping[str, Any] = {"attention_bias": True, "tie_word_embeddings": False}
    stored_names: Mapping[str, str] = {"lm_head.weight": "embed_out.weight"}
    block_list = "gpt_neox.layers"

    def check(self, config: Config) -> None:
        """Every variant but quantized ones is supported."""
        refuse_quantized(config)

    def slots(self, config: Config) -> list[Slot]:
        """See `ModelFamily.slots`. The biases of q, k, v and of the FFN's first layer do not touch the stream."""
        slots = [Slot("gpt_neox.embed_in.weight", 1, "writer")]
        for layer in range(config.num_hidden_layers):
            block = f"gpt_neox.layers.{layer}"
            for norm, reader, writer in BRANCHES:
                has_bias = config.attention_bias or not writer.startswith("attention")
                slots += layer_norm(f"{block}.{norm}")
                slots += readers(block, [reader])
                slots += linear(f"{block}.{writer}", 0, "writer", has_bias)
        slots += layer_norm(FINAL)
        return slots if is_tied(config) else [*slots, Slot("lm_head.weight", 1, "reader")]

    def head_slots(self, config: Config) -> list[HeadSlot]:
        """See `ModelFamily.head_slots`. The rows of query_key_value are [heads, (q, k, v), head size]."""
        size, slots = head_dim_of(config), []
        for layer in range(config.num_hidden_layers):
            block = f"gpt_neox.layers.{layer}.attention"
            for kind in ("weight", "bias") if config.attention_bias else ("weight",):
                slots.append(HeadSlot(f"{block}.query_key_value.{kind}", 0, 3 * size, layer))
            slots.append(HeadSlot(f"{block}.dense.weight", 1, size, layer))
        return slots

    def sites(self, config: Config) -> list[StreamSite]:
        """See `ModelFamily.sites`."""
        sites = []
        for layer in range(config.num_hidden_layers):
            block = f"gpt_neox.layers.{layer}"
            for norm, reader, _writer in BRANCHES:
                sites.append(StreamSite(f"{block}.{norm}", f"{block}.{norm}", (f"{block}.{reader}",)))
        return [*sites, StreamSite(FINAL, FINAL, ("lm_head",))]

    def width_multiple(self, config: Config) -> int:
        """Any width: the modelling file says the head size."""
        return 1

    def epsilon(self, config: Config) -> str | None:
        """All norms stand on the stream."""
        return "layer_norm_eps"

    def narrow_type(self, config: Config) -> str | None:
        """Stock code ignores `head_dim`."""
        return "narrow_gpt_neox"

    def narrowed(self, config: Config, width: int) -> Config:
        """See `ModelFamily.narrowed`."""
        return at_width(config, width)


FAMILY = GptNeoX()
