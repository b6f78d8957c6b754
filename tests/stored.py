"""Writes checkpoint folders by hand: a config and tensors of zeros, for tests that load no model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

SMALL_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def llama_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of an untied Llama of this config."""
    width, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width), "model.norm.weight": (width,)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{block}.self_attn.{name}_proj.weight": (width, width) for name in "qo"}
        shapes |= {f"{block}.self_attn.{name}_proj.weight": (keys, width) for name in "kv"}
        shapes |= {f"{block}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (width, inner)
    return shapes if config.get("tie_word_embeddings") else {**shapes, "lm_head.weight": (words, width)}


def write_model(folder: Path, config: Any = None, shapes: dict[str, tuple[int, ...]] | None = None) -> Path:
    """A float32 checkpoint; without `shapes`, with the tensors of a Llama."""
    config = SMALL_LLAMA if config is None else config
    shapes = llama_shapes({**SMALL_LLAMA, **(config if isinstance(config, dict) else {})}) if shapes is None else shapes
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return folder
