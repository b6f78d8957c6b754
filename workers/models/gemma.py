"""Gemma 1: Llama's layout with norms that store γ - 1, embeddings multiplied by √d, and a tied head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workers.models.decoder import ATTENTION, FEED_FORWARD, Decoder


class Gemma(Decoder):
    """The Gemma family; exact for both bases, though rotating unties the head and costs a second embedding."""

    model_type = "gemma"
    norm_offset = 1.0
    embeddings_scaled = True
    defaults: Mapping[str, Any] = {"attention_bias": False, "head_dim": 256, "tie_word_embeddings": True}
    branches = (replace(ATTENTION, bias="attention_bias"), FEED_FORWARD)


FAMILY = Gemma()
