"""Gemma 2: as Gemma, with a second norm between each branch and the stream, soft caps and sliding windows.

Scores are divided by a number of the config's own (`query_pre_attn_scalar`), and caps act on scores and logits, so
neither knows the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.models.decoder import ATTENTION_READERS, FFN_READERS, Branch, Decoder
from workers.models.family import Config


class Gemma2(Decoder):
    """The Gemma 2 family; exact for `basis: channels`, since its post-norms do not commute with a rotation."""

    model_type = "gemma2"
    norm_offset = 1.0
    embeddings_scaled = True
    defaults: Mapping[str, Any] = {"attention_bias": False, "head_dim": 256, "tie_word_embeddings": True}
    branches = (
        Branch(
            ATTENTION_READERS,
            "self_attn.o_proj",
            norm="input_layernorm",
            post_norm="post_attention_layernorm",
            bias="attention_bias",
        ),
        Branch(
            FFN_READERS,
            "mlp.down_proj",
            norm="pre_feedforward_layernorm",
            post_norm="post_feedforward_layernorm",
        ),
    )

    def width_multiple(self, config: Config) -> int:
        """The head count: transformers refuses a hidden size that the heads do not divide, whatever `head_dim` says."""
        return int(config.num_attention_heads)


FAMILY = Gemma2()
