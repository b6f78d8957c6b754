"""Llama as SliceGPT leaves it: a narrower stream whose basis changes at every norm, and a matrix on each shortcut.

This file travels with an exported model and needs torch and transformers (5 or later) only. It differs from stock Llama
in three places: norms have no weight and divide by the width of the dense model, the residual shortcut of each half of
a block is multiplied by a matrix, and the last block and the head may be wider than the stream before them.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


@strict
class SlicedLlamaConfig(LlamaConfig):
    """A config of Llama that says how wide the stream was, and how wide it is when the head reads it."""

    model_type = "sliced_llama"

    dense_hidden_size: int = 0
    """Width of the dense model's stream, by which the norms divide; 0 stands for hidden_size."""
    head_hidden_size: int = 0
    """Width of what the last block gives to the head; 0 stands for hidden_size."""

    def __post_init__(self, **kwargs):
        self.dense_hidden_size = self.dense_hidden_size or self.hidden_size
        self.head_hidden_size = self.head_hidden_size or self.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Any width goes with any heads."""


class SlicedNorm(nn.Module):
    """The stream over its root mean square, as if the channels sliced off were there and zero."""

    def __init__(self, dense_width: int, epsilon: float) -> None:
        super().__init__()
        self.dense_width = dense_width
        self.epsilon = epsilon

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        stream = hidden_states if hidden_states.dtype == torch.float64 else hidden_states.float()
        mean_square = stream.square().sum(-1, keepdim=True) / self.dense_width
        return (stream * torch.rsqrt(mean_square + self.epsilon)).to(hidden_states.dtype)


class SlicedLlamaDecoderLayer(LlamaDecoderLayer):
    """A stock block between changes of basis."""

    def __init__(self, config: SlicedLlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        width = config.hidden_size
        given = config.head_hidden_size if layer_idx == config.num_hidden_layers - 1 else width
        self.input_layernorm = SlicedNorm(config.dense_hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = SlicedNorm(config.dense_hidden_size, config.rms_norm_eps)
        self.mlp.down_proj = nn.Linear(config.intermediate_size, given, bias=config.mlp_bias)
        self.attn_shortcut = nn.Parameter(torch.eye(width))
        self.mlp_shortcut = nn.Parameter(torch.eye(width, given))

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        attended = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        hidden_states = hidden_states @ self.attn_shortcut + attended
        return hidden_states @ self.mlp_shortcut + self.mlp(self.post_attention_layernorm(hidden_states))


class SlicedLlamaForCausalLM(LlamaForCausalLM):
    """Stock Llama with the blocks above."""

    config_class = SlicedLlamaConfig

    def __init__(self, config: SlicedLlamaConfig) -> None:
        super().__init__(config)
        for number in range(config.num_hidden_layers):
            self.model.layers[number] = SlicedLlamaDecoderLayer(config, number)
        self.model.norm = SlicedNorm(config.dense_hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.head_hidden_size, config.vocab_size, bias=False)
        self.post_init()
