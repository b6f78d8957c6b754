"""Every architecture in every form that matters, as random two-layer models: the rows of the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from workers.models.family import family_named

VOCABULARY, CONTEXT, HIDDEN, HEADS, FFN = 67, 64, 24, 4, 33
"""Sizes of every model; heads have 6 channels unless a variant says otherwise."""


def tiny(model_type: str, **changes: Any) -> PreTrainedModel:
    """A random two-layer model whose norms are not all ones and whose biases are not zero; the same at each call.

    The epsilons are large enough for a wrong one to show.
    """
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "layer_norm_eps" if model_type in ("phi", "gpt_neox") else "rms_norm_eps": 0.02,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**sizes, **changes})).eval()
    offset = family_named(model_type).norm_offset
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                is_gain = "norm" in name and name.endswith("weight")
                weight.copy_((1 - offset if is_gain else 0.0) + 0.3 * torch.randn_like(weight))
    return model


def gemma(model_type: str, **changes: Any) -> PreTrainedModel:
    """Gemma's config says the size of a head apart from the width; these heads are as wide as elsewhere."""
    return tiny(model_type, **{"head_dim": HIDDEN // HEADS, "num_key_value_heads": 2, **changes})


def opt(**changes: Any) -> PreTrainedModel:
    """OPT's config has names of its own for the FFN's size and the spread of the weights, and drops out by default."""
    return tiny("opt", **{"ffn_dim": FFN, "init_std": 0.2, "dropout": 0.0, **changes})


VARIANTS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": partial(tiny, "llama", num_key_value_heads=2),
    "llama-tied": partial(tiny, "llama", tie_word_embeddings=True),
    "llama-biases": partial(tiny, "llama", attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "llama-wide-heads": partial(
        *(tiny, "llama"),
        head_dim=16,
        rope_parameters={
            **{"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0},
            **{"high_freq_factor": 4.0, "original_max_position_embeddings": 16},
        },
    ),
    "mistral": partial(tiny, "mistral", num_key_value_heads=2, sliding_window=16),
    "mistral-wide-heads": partial(tiny, "mistral", num_key_value_heads=1, head_dim=10, tie_word_embeddings=True),
    "qwen2": partial(
        *(tiny, "qwen2"),
        num_key_value_heads=2,
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ),
    "qwen2-tied": partial(
        *(tiny, "qwen2"),
        num_key_value_heads=1,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=16,
        max_window_layers=1,
    ),
    "qwen3": partial(tiny, "qwen3", num_key_value_heads=2, head_dim=10),
    "qwen3-tied": partial(
        tiny, "qwen3", num_key_value_heads=1, head_dim=6, tie_word_embeddings=True, attention_bias=True
    ),
    "phi3": partial(tiny, "phi3", num_key_value_heads=2, sliding_window=16),
    "phi3-tied": partial(
        tiny, "phi3", tie_word_embeddings=True, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.7}
    ),
    "phi3-long-context": partial(
        *(tiny, "phi3"),
        rope_parameters={
            "rope_type": "longrope",
            "short_factor": [1.0, 1.1, 1.2],
            "long_factor": [1.0, 2.0, 4.0],
            "original_max_position_embeddings": 16,
        },
        original_max_position_embeddings=16,
    ),
    "gemma": partial(gemma, "gemma"),
    "gemma-untied": partial(
        gemma, "gemma", head_dim=10, num_key_value_heads=1, tie_word_embeddings=False, attention_bias=True
    ),
    "gemma2": partial(gemma, "gemma2", sliding_window=16),
    "gemma2-untied": partial(
        gemma, "gemma2", head_dim=10, num_key_value_heads=1, tie_word_embeddings=False, attention_bias=True
    ),
    "olmo2": partial(tiny, "olmo2", num_key_value_heads=2),
    "olmo2-tied": partial(tiny, "olmo2", tie_word_embeddings=True, attention_bias=True),
    "phi": partial(tiny, "phi", num_key_value_heads=2, partial_rotary_factor=0.7),
    "phi-tied": partial(tiny, "phi", tie_word_embeddings=True, partial_rotary_factor=0.7),
    "opt": partial(opt),
    "opt-untied": partial(opt, tie_word_embeddings=False),
    "opt-without-biases": partial(opt, enable_bias=False),
    "gpt_neox": partial(tiny, "gpt_neox", rotary_pct=0.7),
    "gpt_neox-in-turn": partial(tiny, "gpt_neox", rotary_pct=0.7, use_parallel_residual=False),
    "gpt_neox-without-biases": partial(tiny, "gpt_neox", rotary_pct=0.7, attention_bias=False),
    "gpt_neox-tied": partial(tiny, "gpt_neox", rotary_pct=0.7, tie_word_embeddings=True, attention_bias=False),
}
"""One row a variant: its name, which begins with the family's, and how to make it."""
