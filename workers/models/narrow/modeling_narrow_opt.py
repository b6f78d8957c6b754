"""OPT whose attention heads keep their size when the residual stream is narrower than the heads together.

This file travels with an exported model and needs torch and transformers (5 or later) only. It differs from stock OPT
in two places: the config has `head_dim`, and attention has heads·head_dim inner channels instead of hidden_size.
"""

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import OPTConfig, OPTForCausalLM
from transformers.models.opt.modeling_opt import OPTAttention


@strict
class NarrowOPTConfig(OPTConfig):
    """A config of OPT that says its head size."""

    model_type = "narrow_opt"

    head_dim: int = 0
    """Channels a head; 0 stands for hidden size over heads."""

    def __post_init__(self, **kwargs):
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)


class NarrowOPTAttention(OPTAttention):
    """Stock attention between projections of another inner size."""

    def __init__(self, config: NarrowOPTConfig, layer_idx: int | None = None) -> None:
        nn.Module.__init__(self)  # the stock constructor refuses heads that do not divide the width
        self.config = config
        self.layer_idx = layer_idx
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.embed_dim = self.num_heads * self.head_dim
        self.scaling = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        self.enable_bias = config.enable_bias
        self.is_causal = True
        for name in ("k_proj", "v_proj", "q_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, self.embed_dim, bias=config.enable_bias))
        self.out_proj = nn.Linear(self.embed_dim, config.hidden_size, bias=config.enable_bias)


class NarrowOPTForCausalLM(OPTForCausalLM):
    """Stock OPT with the attention above in every layer."""

    config_class = NarrowOPTConfig

    def __init__(self, config: NarrowOPTConfig) -> None:
        heads, config.num_attention_heads = config.num_attention_heads, 1  # a count that divides every width
        try:
            super().__init__(config)
        finally:
            config.num_attention_heads = heads
        for number, layer in enumerate(self.model.decoder.layers):
            layer.self_attn = NarrowOPTAttention(config, number)
        self.post_init()
