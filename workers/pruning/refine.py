"""Refine the axes by gradient descent: turn them so that the model without the last ones stays near the dense model.

Principal axes say what the stream carries; they do not say what the layers make of it. Here the subspace kept is a
parameter: every writer's output is projected on it, the divergence to the dense model (the same weights, unprojected)
is minimized, and no weight changes. METHOD §4 has the basis this starts from; the descent is ours.

Legend: d = hidden size, A [d, n] = the axes to start from (n = d, or d - 1 for LayerNorm), k = axes kept,
B [k, n-k] = the angles, S = [[0, -B], [Bᵀ, 0]] skew, E = exp(S), U = A·E[:, :k] the subspace kept. Where several widths
are to be served, S is any skew matrix and each step draws its k.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.contracts.training import TrainingSettings
from workers.models.family import ModelFamily, writer_modules
from workers.pruning.groups import IdleRider
from workers.pruning.method import Preparation
from workers.training.loop import Objective, Step, train


class Subspace(nn.Module):
    """The angles B, and the subspace they turn the axes to."""

    axes: Tensor

    def __init__(self, axes: Tensor, widths: Sequence[int]) -> None:
        """`widths`: every k that is to be served."""
        super().__init__()
        self.register_buffer("axes", axes.float(), persistent=False)
        self.kept = widths[0]
        size = axes.shape[1]
        shape = (self.kept, size - self.kept) if len(widths) == 1 else (size, size)
        self.angles = nn.Parameter(torch.zeros(shape, device=axes.device))

    def turn(self) -> Tensor:
        """E [n, n], orthogonal."""
        rows, columns = self.angles.shape
        if rows == columns == self.axes.shape[1]:
            lower = self.angles.tril(-1)
        else:
            lower = F.pad(self.angles.T, (0, columns, rows, 0))
        return torch.matrix_exp(lower - lower.T)

    def basis(self) -> Tensor:
        """U [d, k]."""
        return self.axes @ self.turn()[:, : self.kept]


class _DrawnWidth(IdleRider):
    """Sets the subspace's k before each step; the step alone decides it."""

    def __init__(self, subspace: Subspace, widths: Sequence[int], seed: int) -> None:
        self._subspace, self._widths, self._seed = subspace, widths, seed

    def before_step(self, step: int) -> None:
        """See `workers.training.loop.Rider`."""
        random = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        self._subspace.kept = self._widths[int(torch.randint(len(self._widths), (1,), generator=random))]


def refined_axes(
    axes: Tensor,
    widths: Sequence[int],
    family: ModelFamily,
    task: Preparation,
    sequences: Tensor,
    settings: TrainingSettings,
) -> Generator[Step, None, Tensor]:
    """The axes turned, float64 [d, n], yielding a step of progress each.

    Args:
        axes: A, float64 [d, n], by falling importance.
        widths: every k that is to be served.
        sequences: token ids [samples, sequence_length].
        settings: how to train; the peak learning rate is in radians a step.
    """
    model = task.model
    subspace = Subspace(axes.to(model.device), widths)
    wanted_gradients = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        objective = _divergence(model, family, subspace)
        rider = _DrawnWidth(subspace, widths, task.seed)
        yield from train(subspace, sequences, settings, objective, seed=task.seed, rider=rider, keeper=task.keeper)
    finally:
        for parameter, wanted in zip(model.parameters(), wanted_gradients, strict=True):
            parameter.requires_grad_(wanted)
    with torch.no_grad():
        turn = subspace.turn().double().cpu()
    clean, upper = torch.linalg.qr(turn)  # takes the rounding of float32 out
    return axes @ (clean * upper.diagonal().sign())


def _divergence(model: PreTrainedModel, family: ModelFamily, subspace: Subspace) -> Objective:
    """KL(dense ‖ projected) a token, in nats, as a function of token ids [B, L]."""

    def loss(ids: Tensor) -> Tensor:
        model.eval()
        with torch.no_grad():
            wanted = F.log_softmax(model(input_ids=ids, use_cache=False).logits.flatten(0, 1).float(), -1)
        with _projected(model, family, subspace.basis()):
            given = F.log_softmax(model(input_ids=ids, use_cache=False).logits.flatten(0, 1).float(), -1)
        return F.kl_div(given, wanted, log_target=True, reduction="batchmean")

    return loss


@contextmanager
def _projected(model: PreTrainedModel, family: ModelFamily, basis: Tensor) -> Iterator[None]:
    """While the block runs, every writer's output y [.., d] becomes U(Uᵀy)."""

    def project(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        narrow = basis.to(output.dtype)
        return (output @ narrow) @ narrow.T

    hooks = [model.get_submodule(name).register_forward_hook(project) for name in writer_modules(family, model.config)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
