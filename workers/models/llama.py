"""Llama 1, 2 and 3: RMSNorm, rotary positions, gated FFN, grouped-query attention, optional biases and tied head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workers.models.decoder import ATTENTION, FEED_FORWARD, Decoder
from workers.models.family import Config


class Llama(Decoder):
    """The Llama family; exact for both bases, exported natively."""

    model_type = "llama"
    defaults: Mapping[str, Any] = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}
    branches = (replace(ATTENTION, bias="attention_bias"), replace(FEED_FORWARD, bias="mlp_bias"))

    def width_multiple(self, config: Config) -> int:
        """The head count: transformers refuses a hidden size that the heads do not divide, whatever `head_dim` says."""
        return int(config.num_attention_heads)


FAMILY = Llama()
