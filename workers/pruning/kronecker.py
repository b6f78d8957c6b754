"""Kronecker-factored curvature of linear layers: what a row or a column costs, and how the rest makes up for it.

Follows "The LLM Surgeon" (van der Ouderaa et al., 2024); METHOD §7.

Legend: W [m, n] = a layer's weight, its bias as the last column where it has one; a [n] = a token's input (1 in the
bias's place), g [m] = the loss's gradient by the token's output; A = Σ a·aᵀ [n, n], G = Σ g·gᵀ [m, m], so that the
empirical Fisher of W is about G ⊗ A; P, Q = rows and columns that go; Ĝ, Â = the factors with their damping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

Joint = Literal["exact", "release"]
"""How the updates for rows and for columns go together; see `LlmSurgeonSettings.joint`."""


@dataclass(frozen=True)
class Curvature:
    """The factors of one layer, float32 on the model's device: 4·(m² + n²) bytes."""

    inputs: Tensor
    """A [n, n]."""
    outputs: Tensor
    """G [m, m]."""

    def balanced(self) -> Curvature:
        """Both factors rescaled to the norm √(‖A‖·‖G‖), float64; their product stays. Zeros stay zeros."""
        inputs, outputs = self.inputs.double(), self.outputs.double()
        norms = inputs.norm(), outputs.norm()
        if not all(norm > 0 for norm in norms):
            return Curvature(inputs, outputs)
        common = (norms[0] * norms[1]).sqrt()
        return Curvature(inputs * (common / norms[0]), outputs * (common / norms[1]))

    def of(self, rows: Tensor, columns: Tensor) -> Curvature:
        """The factors of the layer without the other rows and columns, told by masks [m] and [n]."""
        return Curvature(self.inputs[columns][:, columns], self.outputs[rows][:, rows])


@torch.no_grad()
def matrix_of(layer: nn.Linear) -> Tensor:
    """W, float64, a copy."""
    weight = layer.weight.detach().double()
    return weight.clone() if layer.bias is None else torch.cat([weight, layer.bias.detach().double()[:, None]], 1)


@torch.no_grad()
def put_matrix(layer: nn.Linear, matrix: Tensor) -> None:
    """Write W back, rounded to the layer's type."""
    layer.weight.copy_(matrix[:, : layer.in_features])
    if layer.bias is not None:
        layer.bias.copy_(matrix[:, -1])


def curvature_of(
    model: PreTrainedModel, layers: dict[str, nn.Linear], batches: Iterable[Tensor]
) -> tuple[dict[str, Curvature], float]:
    """The factors of all layers, summed over every token, and the mean loss a predicted token in nats.

    The gradients are those of the summed cross-entropy of the next tokens as the text has them. One forward and one
    backward pass a batch; no gradient of a weight is computed.

    Args:
        batches: token ids [B, L] each.
    """
    found = {name: _nothing(layer) for name, layer in layers.items()}
    total, count = 0.0, 0
    model.eval()
    with _frozen(model), _watched(layers, found), torch.enable_grad():
        for ids in batches:
            ids = ids.to(model.device)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
            loss = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")
            loss.backward()
            total, count = total + loss.item(), count + len(logits)
    return found, total / count


def _nothing(layer: nn.Linear) -> Curvature:
    columns = layer.in_features + (layer.bias is not None)
    zeros = [torch.zeros(size, size, device=layer.weight.device) for size in (columns, layer.out_features)]
    return Curvature(*zeros)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """While the block runs, no parameter asks for a gradient."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was in wanted:
            parameter.requires_grad_(was)


@contextmanager
def _watched(layers: dict[str, nn.Linear], found: dict[str, Curvature]) -> Iterator[None]:
    """While the block runs, every forward pass adds to A and every backward pass to G."""
    hooks = [layer.register_forward_hook(_adding_to(found[name])) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding_to(curvature: Curvature) -> Callable[[nn.Linear, tuple[Tensor, ...], Tensor], None]:
    def forward(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        tokens = inputs[0].detach().flatten(0, -2).float()
        if layer.bias is not None:
            tokens = F.pad(tokens, (0, 1), value=1.0)
        curvature.inputs.addmm_(tokens.T, tokens)
        if not output.requires_grad:  # the first layers of a frozen model: here the gradient's way begins
            output.requires_grad_()
        output.register_hook(backward)

    def backward(gradient: Tensor) -> None:
        tokens = gradient.flatten(0, -2).float()
        curvature.outputs.addmm_(tokens.T, tokens)

    return forward


def inverse(factor: Tensor, damping: float) -> Tensor:
    """(factor + damping·d̄·I)⁻¹, float64; d̄ = the mean of what is not zero on the diagonal.

    A factor of zeros gets I: nothing depends on it, and it must not end the run.
    """
    diagonal = factor.diagonal()
    busy = diagonal[diagonal > 0]
    added = damping * float(busy.mean()) if len(busy) else 1.0
    damped = factor.double() + added * torch.eye(len(factor), dtype=torch.float64, device=factor.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def prices(weight: Tensor, curvature: Curvature, damping: float) -> tuple[Tensor, Tensor]:
    """By how much the loss rises if a row goes, [m], and if a column goes, [n], the rest making up for it; in float64.

    Row i: ½·wᵢᵀAwᵢ / [Ĝ⁻¹]ᵢᵢ; column j: ½·wⱼᵀGwⱼ / [Â⁻¹]ⱼⱼ. A row that no gradient reaches and a column that carries
    nothing are free.

    Args:
        weight: W, float64 [m, n].
        curvature: balanced.
    """
    inputs, outputs = curvature.inputs, curvature.outputs
    rows = 0.5 * ((weight @ inputs) * weight).sum(1) / inverse(outputs, damping).diagonal()
    columns = 0.5 * ((outputs @ weight) * weight).sum(0) / inverse(inputs, damping).diagonal()
    return rows * (outputs.diagonal() > 0), columns * (inputs.diagonal() > 0)


def without(
    weight: Tensor, curvature: Curvature, rows: Tensor, columns: Tensor, damping: float, joint: Joint = "exact"
) -> Tensor:
    """W without rows P and columns Q: exact zeros there, and the rest moved to where the quadratic loss is least.

    `exact`: W ← W - Ĝ⁻¹[:,P]·(Ĝ⁻¹[P,P])⁻¹·W[P,:], then W ← W - W[:,Q]·(Â⁻¹[Q,Q])⁻¹·Â⁻¹[Q,:], which is the optimum of
    both together. `release`: both corrections of the same W, added.

    Args:
        weight: W, float64 [m, n].
        curvature: balanced.
        rows: P, a mask [m].
        columns: Q, a mask [n].
    """
    after = weight.clone()
    if rows.any():
        after -= _for_rows(weight, inverse(curvature.outputs, damping), rows)
        if joint == "exact":
            after[rows] = 0.0
    if columns.any():
        moved = after if joint == "exact" else weight
        after = after - _for_rows(moved.T, inverse(curvature.inputs, damping), columns).T
    after[rows] = 0.0
    after[:, columns] = 0.0
    return after


def _for_rows(weight: Tensor, inverted: Tensor, rows: Tensor) -> Tensor:
    """H⁻¹[:,P]·(H⁻¹[P,P])⁻¹·W[P,:] for an inverse H⁻¹ [m, m]."""
    return inverted[:, rows] @ torch.linalg.solve(inverted[rows][:, rows], weight[rows])
