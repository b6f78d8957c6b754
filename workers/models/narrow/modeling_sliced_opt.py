"""OPT as SliceGPT leaves it: a narrower stream whose basis changes at every norm, and a matrix on each shortcut.

This file travels with an exported model and needs torch and transformers (5 or later) only. It differs from stock OPT
in five places: norms have no weight, take no mean and divide by the width of the dense model; the residual shortcut of
each half of a block is multiplied by a matrix; the last block and the head may be wider than the stream before them;
the config has `head_dim`; and the head, like all that reads the stream, has a bias.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import OPTConfig, OPTForCausalLM
from transformers.models.opt.modeling_opt import OPTAttention, OPTDecoderLayer

EPSILON = 1e-5
"""Of every norm, as in stock code."""


@strict
class SlicedOPTConfig(OPTConfig):
    """A config of OPT that says its head size, how wide the stream was, and how wide it is when the head reads it."""

    model_type = "sliced_opt"

    head_dim: int = 0
    """Channels a head; 0 stands for hidden size over heads."""
    dense_hidden_size: int = 0
    """Width of the dense model's stream, by which the norms divide; 0 stands for hidden_size."""
    head_hidden_size: int = 0
    """Width of what the last block gives to the head; 0 stands for hidden_size."""

    def __post_init__(self, **kwargs):
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.dense_hidden_size = self.dense_hidden_size or self.hidden_size
        self.head_hidden_size = self.head_hidden_size or self.hidden_size
        super().__post_init__(**kwargs)


class SlicedNorm(nn.Module):
    """The stream over its root mean square, as if the channels sliced off were there and zero."""

    def __init__(self, dense_width: int) -> None:
        super().__init__()
        self.dense_width = dense_width

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        stream = hidden_states if hidden_states.dtype == torch.float64 else hidden_states.float()
        mean_square = stream.square().sum(-1, keepdim=True) / self.dense_width
        return (stream * torch.rsqrt(mean_square + EPSILON)).to(hidden_states.dtype)


class SlicedOPTAttention(OPTAttention):
    """Stock attention between projections of another inner size."""

    def __init__(self, config: SlicedOPTConfig, layer_idx: int | None = None) -> None:
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
            setattr(self, name, nn.Linear(config.hidden_size, self.embed_dim))
        self.out_proj = nn.Linear(self.embed_dim, config.hidden_size, bias=config.enable_bias)


class SlicedOPTDecoderLayer(OPTDecoderLayer):
    """A stock block between changes of basis."""

    def __init__(self, config: SlicedOPTConfig, layer_idx: int) -> None:
        heads, config.num_attention_heads = config.num_attention_heads, 1  # a count that divides every width
        try:
            super().__init__(config, layer_idx)
        finally:
            config.num_attention_heads = heads
        width = config.hidden_size
        given = config.head_hidden_size if layer_idx == config.num_hidden_layers - 1 else width
        self.self_attn = SlicedOPTAttention(config, layer_idx)
        self.self_attn_layer_norm = SlicedNorm(config.dense_hidden_size)
        self.final_layer_norm = SlicedNorm(config.dense_hidden_size)
        self.fc1 = nn.Linear(width, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, given, bias=config.enable_bias)
        self.attn_shortcut = nn.Parameter(torch.eye(width))
        self.mlp_shortcut = nn.Parameter(torch.eye(width, given))

    def forward(self, hidden_states: torch.Tensor, use_cache: bool | None = False, **kwargs) -> torch.Tensor:
        attended = self.self_attn(hidden_states=self.self_attn_layer_norm(hidden_states), **kwargs)[0]
        hidden_states = hidden_states @ self.attn_shortcut + self._dropped(attended)
        inner = self.activation_fn(self.fc1(self.final_layer_norm(hidden_states)))
        return hidden_states @ self.mlp_shortcut + self._dropped(self.fc2(inner))

    def _dropped(self, written: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(written, self.dropout, self.training)


class SlicedOPTForCausalLM(OPTForCausalLM):
    """Stock OPT with the blocks above."""

    config_class = SlicedOPTConfig

    def __init__(self, config: SlicedOPTConfig) -> None:
        heads, config.num_attention_heads = config.num_attention_heads, 1
        try:
            super().__init__(config)
        finally:
            config.num_attention_heads = heads
        decoder = self.model.decoder
        for number in range(config.num_hidden_layers):
            decoder.layers[number] = SlicedOPTDecoderLayer(config, number)
        decoder.final_layer_norm = SlicedNorm(config.dense_hidden_size)
        self.lm_head = nn.Linear(config.head_hidden_size, config.vocab_size)
        self.post_init()
