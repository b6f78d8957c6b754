"""What the regularize stage does to the channels that will go: the paper's penalty, or annealing to exactly zero.

Legend: R = {d', …, d-1} the channels to remove, W_s the tensor of slot s, RW_s its part in R,
λ = strength, g(t) = the gate, 1 at the first step and 0 from step T_0 on.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily, Slot


class Regularizer(Protocol):
    """What a training step does besides minimizing the language-modelling loss."""

    def add_gradient(self) -> None:
        """After backward, before clipping: add the penalty's gradient to the parameters' own."""
        ...

    def after_step(self, step: int) -> None:
        """After optimizer step `step` (from 0): shrink what is to go."""
        ...

    def metrics(self) -> dict[str, float]:
        """Figures for the progress events."""
        ...


class RemovedPart:
    """The part in R of every slot of a model, as views."""

    def __init__(self, model: PreTrainedModel, family: ModelFamily, kept: int) -> None:
        self._kept = kept
        self.slots: list[tuple[Slot, nn.Parameter]] = [
            (slot, model.get_parameter(slot.parameter)) for slot in family.slots(model.config)
        ]
        self.before = self.magnitudes()
        """The magnitudes that preserved ratios refer to."""

    def view(self, slot: Slot, tensor: Tensor) -> Tensor:
        """RW or WR: the removed part of a slot's tensor (or of its gradient), sharing memory."""
        return tensor.narrow(slot.axis, self._kept, tensor.shape[slot.axis] - self._kept)

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """Σ|w| of each slot's removed part, float64 [slots]: numerator and denominator of the paper's Figure 3."""
        return torch.stack([self.view(slot, weight).abs().sum(dtype=torch.float64) for slot, weight in self.slots])

    def preserved_ratio(self) -> float:
        """Σ|w| of the removed part now, as a fraction of what it was before regularization."""
        return float(self.magnitudes().sum() / self.before.sum())


class Penalty:
    """λ·Σ over slots of the column-wise norm of the removed part, added to the loss (DReSS Eqs. 1-4).

    The gradient is added directly instead of being taken through the loss: the sum is separable, so its derivative is
    λ·sign(w) for ℓ1 and λ·w/‖column‖ for ℓ2. The paper minimizes ℓ1 through auxiliary variables y ≥ |w| (Proposition
    3.2, Eq. 7); at the optimum y = |w|, so the sub-gradient of Σ|w| solves the same problem.
    """

    def __init__(self, removed: RemovedPart, norm: str, strength: float) -> None:
        self._removed, self._norm, self._strength = removed, norm, strength

    @torch.no_grad()
    def add_gradient(self) -> None:
        """See `Regularizer.add_gradient`."""
        for slot, weight in self._removed.slots:
            if weight.grad is None:
                continue
            part, gradient = self._removed.view(slot, weight), self._removed.view(slot, weight.grad)
            if self._norm == "l1":
                gradient.add_(part.sign(), alpha=self._strength)
            else:
                lengths = _column_lengths(slot, part).clamp_min(1e-12)
                gradient.addcdiv_(part, lengths.expand_as(part), value=self._strength)

    def after_step(self, step: int) -> None:
        """A penalty acts through the gradient alone."""

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """`penalty`: λ·Σ‖·‖, the term added to the loss; `preserved_ratio`."""
        total = 0.0
        for slot, weight in self._removed.slots:
            part = self._removed.view(slot, weight)
            norm = part.abs().sum() if self._norm == "l1" else _column_lengths(slot, part).sum()
            total += float(norm)
        return {"penalty": self._strength * total, "preserved_ratio": self._removed.preserved_ratio()}


def _column_lengths(slot: Slot, part: Tensor) -> Tensor:
    """‖column‖₂ of RW (readers: over R, one length an output) or of WR (writers: one length a channel), kept broadcast.

    In the paper's orientation a reader is [d, outputs] and a writer [inputs, d], and norms run down each column.
    """
    if part.dim() == 1:
        return torch.linalg.vector_norm(part) if slot.role == "norm" else part.abs()
    axis = slot.axis if slot.role == "reader" else 1 - slot.axis
    return torch.linalg.vector_norm(part, dim=axis, keepdim=True)


class Annealing:
    """Shrink the removed part by the gate's fall at each step, to exactly zero at step T_0 (METHOD §4).

    w ← w·g(t+1)/g(t) after optimizer step t. From T_0 on the part stays zero and the rest goes on training.
    """

    def __init__(self, removed: RemovedPart, steps_to_zero: int) -> None:
        self._removed, self._steps = removed, max(1, steps_to_zero)

    def gate(self, step: int) -> float:
        """g after `step` steps: linear from 1 to 0."""
        return max(0.0, 1.0 - step / self._steps)

    def add_gradient(self) -> None:
        """Annealing acts after the step alone."""

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """See `Regularizer.after_step`."""
        before, after = self.gate(step), self.gate(step + 1)
        for slot, weight in self._removed.slots:
            part = self._removed.view(slot, weight)
            if after == 0.0:
                part.zero_()
            else:
                part.mul_(after / before)

    def metrics(self) -> dict[str, float]:
        """`preserved_ratio`."""
        return {"preserved_ratio": self._removed.preserved_ratio()}
