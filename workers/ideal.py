"""What a model's work takes by arithmetic alone, from its shapes: floating-point operations, and bytes to be read.

Legend: P = elements of all matrices that a token is multiplied with, a = attention's operations a pair of positions,
k = elements of keys and values a position, e = bytes an element, B = batch, n = new tokens, t = tokens of a prompt,
w = bytes of the weights that a forward pass reads. Sliding windows are not heeded: every position attends to all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Work:
    """One pass of a kind of work."""

    operations: int
    """Floating-point operations; a product and a sum count as two."""
    read_bytes: int


@dataclass(frozen=True)
class Shapes:
    """What of a model's shapes decides how much it computes and reads."""

    matrix_elements: int
    """P."""
    weight_bytes: int
    """w: all parameters but the tables that are looked up only."""
    pair_operations: int
    """a: all layers and heads together."""
    cache_bytes: int
    """k·e: all layers together."""

    def generation(self, batch_size: int, new_tokens: int) -> Work:
        """n forward passes of one token for each of B sequences; the i-th attends to i positions, i = 1…n."""
        positions = new_tokens * (new_tokens + 1) // 2
        return Work(
            operations=batch_size * (2 * self.matrix_elements * new_tokens + self.pair_operations * positions),
            read_bytes=self.weight_bytes * new_tokens + self.cache_bytes * batch_size * positions,
        )

    def prompt(self, tokens: int) -> Work:
        """One forward pass of t tokens without a cache; attention counts all t² pairs."""
        return Work(
            operations=2 * self.matrix_elements * tokens + self.pair_operations * tokens**2,
            read_bytes=self.weight_bytes,
        )


@torch.no_grad()
def shapes_of(model: PreTrainedModel) -> Shapes:
    """The shapes of a loaded model, whatever its architecture: keys and values are those that it caches for a token."""
    head = model.get_output_embeddings()
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    looked_up = tables - ({id(head.weight)} if head is not None else set())
    used = [weight for weight in model.parameters() if id(weight) not in looked_up]
    token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    layers = model(input_ids=token, use_cache=True).past_key_values.layers
    heads = int(model.config.num_attention_heads)
    cached = [(layer.keys, layer.values) for layer in layers]
    return Shapes(
        matrix_elements=sum(weight.numel() for weight in used if weight.dim() > 1),
        weight_bytes=sum(weight.nbytes for weight in used),
        pair_operations=sum(2 * heads * (keys.shape[-1] + values.shape[-1]) for keys, values in cached),
        cache_bytes=sum(part.nbytes for pair in cached for part in pair),
    )


def outline(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """The shapes of all parameters, in the order of the model; equal ones compute in the same time."""
    return [tuple(weight.shape) for weight in model.parameters()]


def held_bytes(model: PreTrainedModel) -> int:
    """Bytes of a model's parameters and buffers, tied tensors once."""
    held = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in held.values())
