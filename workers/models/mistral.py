"""Mistral 7B and its kin: Llama's layout without biases, a head size of its own, sliding-window attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.models.decoder import Decoder


class Mistral(Decoder):
    """The Mistral family; exact for both bases, exported natively."""

    model_type = "mistral"
    defaults: Mapping[str, Any] = {"tie_word_embeddings": False}


FAMILY = Mistral()
