"""OLMo 2: Llama's layout with the norms behind the branches instead of before them, and norms of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.models.decoder import ATTENTION_READERS, FFN_READERS, Branch, Decoder
from workers.models.family import Config


class Olmo2(Decoder):
    """The OLMo 2 family; exact for `basis: channels`, since its post-norms do not commute with a rotation.

    Norms of queries and keys run over all heads, whose number and size stay.
    """

    model_type = "olmo2"
    defaults: Mapping[str, Any] = {"attention_bias": False, "tie_word_embeddings": False}
    branches = (
        Branch(
            ATTENTION_READERS,
            "self_attn.o_proj",
            post_norm="post_attention_layernorm",
            bias="attention_bias",
        ),
        Branch(
            FFN_READERS,
            "mlp.down_proj",
            post_norm="post_feedforward_layernorm",
            entrance="mlp",
        ),
    )

    def epsilon(self, config: Config) -> str | None:
        """None: the norms of queries and keys share the field, and their width does not change."""
        return None


FAMILY = Olmo2()
