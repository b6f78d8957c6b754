"""GPT-NeoX whose attention heads keep their size when the residual stream is narrower than the heads together.

This file travels with an exported model and needs torch and transformers (5 or later) only. It differs from stock
GPT-NeoX in two places: the config has `head_dim`, and attention has heads·head_dim inner channels instead of
hidden_size.
"""

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention


@strict
class NarrowGPTNeoXConfig(GPTNeoXConfig):
    """A config of GPT-NeoX that says its head size."""

    model_type = "narrow_gpt_neox"

    head_dim: int = 0
    """Channels a head; 0 stands for hidden size over heads."""

    def __post_init__(self, **kwargs):
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Any width goes with any heads."""


class NarrowGPTNeoXAttention(GPTNeoXAttention):
    """Stock attention between projections of another inner size."""

    def __init__(self, config: NarrowGPTNeoXConfig, layer_idx: int | None = None) -> None:
        nn.Module.__init__(self)  # the stock constructor derives all sizes from the width
        self.config = config
        self.layer_idx = layer_idx
        self.head_size = config.head_dim
        self.rotary_ndims = int(self.head_size * config.rope_parameters.get("partial_rotary_factor", 1.0))
        self.scaling = self.head_size**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        inner = config.num_attention_heads * self.head_size
        self.query_key_value = nn.Linear(config.hidden_size, 3 * inner, bias=config.attention_bias)
        self.dense = nn.Linear(inner, config.hidden_size, bias=config.attention_bias)


class NarrowGPTNeoXForCausalLM(GPTNeoXForCausalLM):
    """Stock GPT-NeoX with the attention above in every layer."""

    config_class = NarrowGPTNeoXConfig

    def __init__(self, config: NarrowGPTNeoXConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.gpt_neox.layers):
            layer.attention = NarrowGPTNeoXAttention(config, number)
        self.post_init()
