"""Phi-1, Phi-1.5 and Phi-2: one LayerNorm feeds attention and FFN side by side, biases everywhere, partial rotary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.models.family import (
    Config,
    HeadSlot,
    Slot,
    StreamSite,
    at_width,
    is_tied,
    layer_norm,
    linear,
    readers,
    refuse_quantized,
    refuse_unless,
)

READERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")


class Phi:
    """The Phi family before Phi-3; exported natively."""

    model_type = "phi"
    norm = "layer"
    norm_offset = 0.0
    embeddings_scaled = False
    defaults: Mapping[str, Any] = {"qk_layernorm": False, "tie_word_embeddings": False}
    stored_names: Mapping[str, str] = {}
    block_list = "model.layers"

    def check(self, config: Config) -> None:
        """No norms within attention."""
        refuse_quantized(config)
        refuse_unless(
            not config.qk_layernorm,
            "with qk_layernorm: true stock code derives the size of the query and key norms from the width, so no "
            "narrower config can keep them",
        )

    def slots(self, config: Config) -> list[Slot]:
        """See `ModelFamily.slots`. The biases of q, k, v, fc1 and the head do not touch the stream."""
        slots = [Slot("model.embed_tokens.weight", 1, "writer")]
        for layer in range(config.num_hidden_layers):
            block = f"model.layers.{layer}"
            slots += layer_norm(f"{block}.input_layernorm")
            slots += readers(block, READERS)
            slots += linear(f"{block}.self_attn.dense", 0, "writer", bias=True)
            slots += linear(f"{block}.mlp.fc2", 0, "writer", bias=True)
        slots += layer_norm("model.final_layernorm")
        return slots if is_tied(config) else [*slots, Slot("lm_head.weight", 1, "reader")]

    def head_slots(self, config: Config) -> list[HeadSlot]:
        """None: stock code keeps the heads at any width."""
        return []

    def sites(self, config: Config) -> list[StreamSite]:
        """See `ModelFamily.sites`."""
        sites = []
        for layer in range(config.num_hidden_layers):
            block = f"model.layers.{layer}"
            place = f"{block}.input_layernorm"
            sites.append(StreamSite(place, place, tuple(f"{block}.{name}" for name in READERS)))
        return [*sites, StreamSite("model.final_layernorm", "model.final_layernorm", ("lm_head",))]

    def width_multiple(self, config: Config) -> int:
        """Any width: stock code reads `head_dim`."""
        return 1

    def epsilon(self, config: Config) -> str | None:
        """All norms stand on the stream."""
        return "layer_norm_eps"

    def narrow_type(self, config: Config) -> str | None:
        """Stock code reads `head_dim`."""
        return None

    def narrowed(self, config: Config, width: int) -> Config:
        """See `ModelFamily.narrowed`."""
        return at_width(config, width)


FAMILY = Phi()
