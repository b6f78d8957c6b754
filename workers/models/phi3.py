"""Phi-3, Phi-3.5 and Phi-4: Llama's layout with queries, keys and values in one matrix, gate and up in another.

Stock code reads `head_dim`, but its config counts long-context factors (`rope_type: longrope`) against hidden size over
heads, so a model that has them needs a modelling file when it is narrower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workers.models.decoder import ATTENTION, FEED_FORWARD, Decoder
from workers.models.family import Config

ROPE_FIELDS = ("rope_parameters", "rope_scaling")
"""Where a config says how positions are scaled, now and before transformers 5."""


class Phi3(Decoder):
    """The Phi-3 family; exact for both bases."""

    model_type = "phi3"
    defaults: Mapping[str, Any] = {"tie_word_embeddings": False}
    branches = (
        replace(ATTENTION, readers=("self_attn.qkv_proj",)),
        replace(FEED_FORWARD, readers=("mlp.gate_up_proj",)),
    )

    def narrow_type(self, config: Config) -> str | None:
        """None unless there are long-context factors."""
        scalings = [getattr(config, field, None) or {} for field in ROPE_FIELDS]
        return "narrow_phi3" if any("long_factor" in scaling for scaling in scalings) else None


FAMILY = Phi3()
