"""Qwen 2 and 2.5: Llama's layout with biases on queries, keys and values alone, and often a tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.models.decoder import Decoder


class Qwen2(Decoder):
    """The Qwen 2 family; exact for both bases. Its config has no `head_dim`, but stock code reads one that is there."""

    model_type = "qwen2"
    defaults: Mapping[str, Any] = {"tie_word_embeddings": False}


FAMILY = Qwen2()
