"""Llama 1, 2 and 3: RMSNorm, rotary positions, gated FFN, grouped-query attention, optional biases and tied head."""

from __future__ import annotations

from copy import deepcopy

from transformers import LlamaConfig, PreTrainedConfig

from workers.models.family import NormSite, Slot


class Llama:
    """The Llama family; exact for both bases, exported natively."""

    model_type = "llama"

    def slots(self, config: PreTrainedConfig) -> list[Slot]:
        """See `ModelFamily.slots`. Inner tensors (q, k, v, gate and up biases) do not touch the stream."""
        slots = [Slot("model.embed_tokens.weight", 1, "writer")]
        for layer in range(config.num_hidden_layers):
            slots += _layer_slots(f"model.layers.{layer}", config)
        slots.append(Slot("model.norm.weight", 0, "norm"))
        if not config.tie_word_embeddings:
            slots.append(Slot("lm_head.weight", 1, "reader"))
        return slots

    def norm_sites(self, config: PreTrainedConfig) -> list[NormSite]:
        """See `ModelFamily.norm_sites`."""
        sites = []
        for layer in range(config.num_hidden_layers):
            block = f"model.layers.{layer}"
            attention = tuple(f"{block}.self_attn.{name}_proj" for name in ("q", "k", "v"))
            ffn = tuple(f"{block}.mlp.{name}_proj" for name in ("gate", "up"))
            sites += [
                NormSite(f"{block}.input_layernorm", attention),
                NormSite(f"{block}.post_attention_layernorm", ffn),
            ]
        return [*sites, NormSite("model.norm", ("lm_head",))]

    def width_multiple(self, config: PreTrainedConfig) -> int:
        """The head count: transformers refuses a hidden size that the heads do not divide, whatever `head_dim` says."""
        return int(config.num_attention_heads)

    def narrowed(self, config: PreTrainedConfig, width: int, epsilon_factor: float) -> LlamaConfig:
        """See `ModelFamily.narrowed`."""
        narrow = deepcopy(config)
        narrow.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        narrow.hidden_size = width
        narrow.rms_norm_eps = config.rms_norm_eps * epsilon_factor
        return narrow


def _layer_slots(block: str, config: PreTrainedConfig) -> list[Slot]:
    slots = [Slot(f"{block}.input_layernorm.weight", 0, "norm")]
    slots += [Slot(f"{block}.self_attn.{name}_proj.weight", 1, "reader") for name in ("q", "k", "v")]
    slots.append(Slot(f"{block}.self_attn.o_proj.weight", 0, "writer"))
    if config.attention_bias:
        slots.append(Slot(f"{block}.self_attn.o_proj.bias", 0, "writer"))
    slots.append(Slot(f"{block}.post_attention_layernorm.weight", 0, "norm"))
    slots += [Slot(f"{block}.mlp.{name}_proj.weight", 1, "reader") for name in ("gate", "up")]
    slots.append(Slot(f"{block}.mlp.down_proj.weight", 0, "writer"))
    if config.mlp_bias:
        slots.append(Slot(f"{block}.mlp.down_proj.bias", 0, "writer"))
    return slots


FAMILY = Llama()
