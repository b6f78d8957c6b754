"""Phi as SliceGPT leaves it: a narrower stream whose basis changes at every block, and a matrix on each shortcut.

This file travels with an exported model and needs torch and transformers (5 or later) only. It differs from stock Phi
in three places: norms have no weight, take no mean and divide by the width of the dense model; the residual shortcut of
a block is multiplied by a matrix; and the last block and the head may be wider than the stream before them.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PhiConfig, PhiForCausalLM
from transformers.models.phi.modeling_phi import PhiDecoderLayer


@strict
class SlicedPhiConfig(PhiConfig):
    """A config of Phi that says its head size, how wide the stream was, and how wide it is when the head reads it."""

    model_type = "sliced_phi"

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

    def __init__(self, dense_width: int, epsilon: float) -> None:
        super().__init__()
        self.dense_width = dense_width
        self.epsilon = epsilon

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        stream = hidden_states if hidden_states.dtype == torch.float64 else hidden_states.float()
        mean_square = stream.square().sum(-1, keepdim=True) / self.dense_width
        return (stream * torch.rsqrt(mean_square + self.epsilon)).to(hidden_states.dtype)


class SlicedPhiDecoderLayer(PhiDecoderLayer):
    """A stock block, attention and FFN side by side, between changes of basis."""

    def __init__(self, config: SlicedPhiConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        given = config.head_hidden_size if layer_idx == config.num_hidden_layers - 1 else config.hidden_size
        self.input_layernorm = SlicedNorm(config.dense_hidden_size, config.layer_norm_eps)
        self.self_attn.dense = nn.Linear(config.num_attention_heads * config.head_dim, given)
        self.mlp.fc2 = nn.Linear(config.intermediate_size, given)
        self.attn_shortcut = nn.Parameter(torch.eye(config.hidden_size, given))

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        attended = self.resid_dropout(self.self_attn(hidden_states=normed, **kwargs)[0])
        return hidden_states @ self.attn_shortcut + attended + self.resid_dropout(self.mlp(normed))


class SlicedPhiForCausalLM(PhiForCausalLM):
    """Stock Phi with the blocks above."""

    config_class = SlicedPhiConfig

    def __init__(self, config: SlicedPhiConfig) -> None:
        super().__init__(config)
        for number in range(config.num_hidden_layers):
            self.model.layers[number] = SlicedPhiDecoderLayer(config, number)
        self.model.final_layernorm = SlicedNorm(config.dense_hidden_size, config.layer_norm_eps)
        self.lm_head = nn.Linear(config.head_hidden_size, config.vocab_size)
        self.post_init()
