"""Qwen 3: Llama's layout with an RMSNorm over each head's queries and keys, and a head size of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workers.models.decoder import ATTENTION, FEED_FORWARD, Decoder
from workers.models.family import Config


class Qwen3(Decoder):
    """The Qwen 3 family; exact for both bases. Norms of queries and keys run over a head, whose size stays."""

    model_type = "qwen3"
    defaults: Mapping[str, Any] = {"attention_bias": False, "head_dim": 128, "tie_word_embeddings": False}
    branches = (replace(ATTENTION, bias="attention_bias"), FEED_FORWARD)

    def epsilon(self, config: Config) -> str | None:
        """None: the norms of queries and keys share the field, and their width does not change."""
        return None


FAMILY = Qwen3()
