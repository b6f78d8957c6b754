"""What the regularize stage does to the channels that will go: the paper's penalty, or shrinking to exactly zero.

Legend: d = hidden size, d' = the width kept, R = {d', …, d-1} the channels to remove, K = those kept, W_s the tensor of
slot s, RW_s its part in R, λ = strength, g(t) = the gate, 1 at the first step and 0 from step T_0 on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily, Slot


@dataclass(frozen=True)
class Part:
    """The end of one parameter along one axis, from `start` on: what will be removed of it."""

    name: str
    weight: nn.Parameter
    axis: int
    start: int
    role: str
    """The slot's role, or `heads` for a part of attention heads."""
    offset: float = 0.0
    """What the architecture adds to the stored values (see `ModelFamily.norm_offset`)."""

    def of(self, tensor: Tensor) -> Tensor:
        """The part of the parameter, of its gradient or of anything of its shape; shares memory."""
        return tensor.narrow(self.axis, self.start, tensor.shape[self.axis] - self.start)

    @property
    def values(self) -> Tensor:
        """The stored values; shares memory."""
        return self.of(self.weight)

    def magnitude(self) -> Tensor:
        """Σ|w| of the part as the architecture sees it, a float64 scalar."""
        values = self.values + self.offset if self.offset else self.values
        return values.abs().sum(dtype=torch.float64)

    def shrink(self, factor: Tensor | float) -> None:
        """Multiply by a factor, or by one factor a channel of R ([r])."""
        if isinstance(factor, Tensor):
            shape = [1] * self.weight.dim()
            shape[self.axis] = -1
            factor = factor.to(self.weight).view(shape)
        if self.offset:
            self.values.add_(self.offset).mul_(factor).sub_(self.offset)
        else:
            self.values.mul_(factor)


class RemovedPart:
    """The part in R of every slot of a model."""

    def __init__(
        self,
        model: PreTrainedModel,
        family: ModelFamily,
        kept: int,
        *,
        heads_kept: int | None = None,
        centred: bool = False,
        folded: bool = True,
    ) -> None:
        """`centred`: LayerNorm, where the mean over K has to vanish along with R; `folded`: its γ, β are in readers."""
        slots = family.slots(model.config)
        fixed = _bias_carriers(model, family) if centred and folded else set()
        self.kept, self.centred = kept, centred
        self.parts = [_part(model, family, slot, kept) for slot in slots if slot.parameter not in fixed]
        if heads_kept is not None:
            heads = family.head_slots(model.config)
            self.parts += [
                Part(
                    slot.parameter, model.get_parameter(slot.parameter), slot.axis, heads_kept * slot.per_head, "heads"
                )
                for slot in heads
            ]
        self.channels = [part for part in self.parts if part.role != "heads"]
        self.writers = [part for part in self.channels if part.role == "writer"] if centred else []
        self.by_parameter: dict[str, list[Part]] = defaultdict(list)
        for part in self.parts:
            self.by_parameter[part.name].append(part)
        self.before = self.magnitudes()
        """The magnitudes that preserved ratios refer to."""

    @torch.no_grad()
    def magnitudes(self) -> Tensor:
        """Σ|w| of each part, float64 [parts]: numerator and denominator of the paper's Figure 3."""
        return torch.stack([part.magnitude().cpu() for part in self.parts])

    def preserved_ratios(self) -> Tensor:
        """Σ|w| of each part now, as a fraction of what it was before regularization, float64 [parts]."""
        return self.magnitudes() / self.before.clamp_min(1e-300)

    def preserved_ratio(self) -> float:
        """Σ|w| of all parts now, as a fraction of what it was before regularization."""
        return float(self.magnitudes().sum() / self.before.sum().clamp_min(1e-300))

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Multiply every part, and for `centred` the writers' mean over K, by a factor; by 0 makes exact zeros."""
        for part in self.parts:
            part.shrink(factor)
        for part in self.writers:
            take_mean(part.weight.narrow(part.axis, 0, self.kept), part.axis, 1.0 - factor)

    @torch.no_grad()
    def group_sizes(self) -> Tensor:
        """‖w_g‖₂ of each group, one channel of R across all slots, float64 [r]."""
        squares = [
            part.values.add(part.offset).double().pow(2).movedim(part.axis, 0).flatten(1).sum(1)
            if part.weight.dim() > 1
            else part.values.add(part.offset).double().pow(2)
            for part in self.channels
        ]
        return torch.stack(squares).sum(0).sqrt()


def _part(model: PreTrainedModel, family: ModelFamily, slot: Slot, kept: int) -> Part:
    is_gain = slot.role in ("norm", "post_norm") and slot.parameter.endswith("weight")
    offset = family.norm_offset if is_gain else 0.0
    return Part(slot.parameter, model.get_parameter(slot.parameter), slot.axis, kept, slot.role, offset)


def _bias_carriers(model: PreTrainedModel, family: ModelFamily) -> set[str]:
    """Norms and readers whose all-ones direction carries a shift, for want of a bias (see `basis.fold_norms`)."""
    carriers: set[str] = set()
    for site in family.sites(model.config):
        if site.norm and any(model.get_submodule(reader).bias is None for reader in site.readers):
            carriers |= {f"{site.norm}.weight", f"{site.norm}.bias", *(f"{reader}.weight" for reader in site.readers)}
    return carriers


def take_mean(tensor: Tensor, axis: int, share: float = 1.0) -> None:
    """Take a share of the mean over an axis away, in place."""
    tensor.sub_(tensor.mean(axis, keepdim=True), alpha=share)


class IdleRider:
    """What a rider of the training loop does unless it says otherwise: nothing. See `workers.training.loop.Rider`."""

    def before_step(self, step: int) -> None:
        """See `workers.training.loop.Rider`."""

    def add_gradient(self, name: str, weight: nn.Parameter) -> None:
        """See `workers.training.loop.Rider`."""

    def after_step(self, step: int) -> None:
        """See `workers.training.loop.Rider`."""

    def metrics(self) -> dict[str, float]:
        """See `workers.training.loop.Rider`."""
        return {}


class Reducer(IdleRider):
    """A rider that makes the removed part small, and tells how small it is."""

    def __init__(self, removed: RemovedPart) -> None:
        self._removed = removed

    def metrics(self) -> dict[str, float]:
        """`preserved_ratio`."""
        return {"preserved_ratio": self._removed.preserved_ratio()}


class Penalty(Reducer):
    """λ·Σ over slots of the column-wise norm of the removed part, added to the loss (DReSS Eqs. 1-4).

    The gradient is added directly instead of being taken through the loss: the sum is separable, so its derivative is
    λ·sign(w) for ℓ1 and λ·w/‖column‖ for ℓ2. The paper minimizes ℓ1 through auxiliary variables y ≥ |w| (Proposition
    3.2, Eq. 7); at the optimum y = |w|, so the sub-gradient of Σ|w| solves the same problem.
    """

    def __init__(
        self,
        removed: RemovedPart,
        norm: str,
        strength: float,
        *,
        everything: bool = False,
        widths: Sequence[int] = (),
    ) -> None:
        """The part removed is penalized, unless something else is asked for.

        Args:
            everything: penalize every slot as a whole, the paper's ablation FPR.
            widths: penalize what is beyond each of these, all with an equal share of λ. The parts are nested, so that
                a channel's λ is the greater the more of them it is in: the order in which the channels may go.
        """
        super().__init__(removed)
        self._norm, self._strength = norm, strength / max(1, len(widths))
        self._parts: dict[str, list[Part]] = removed.by_parameter
        if everything:  # what is penalized whole is not penalized once more for its heads
            self._parts = {part.name: [replace(part, start=0, offset=0.0)] for part in removed.channels}
        elif widths:
            self._parts = defaultdict(list)
            for part in removed.channels:
                self._parts[part.name] += [replace(part, start=width) for width in widths]

    @torch.no_grad()
    def add_gradient(self, name: str, weight: nn.Parameter) -> None:
        """See `workers.training.loop.Rider`."""
        if weight.grad is None:
            return
        for part in self._parts.get(name, ()):
            values, gradient = part.of(weight), part.of(weight.grad)
            if self._norm == "l1":
                gradient.add_(values.sign(), alpha=self._strength)
            else:
                lengths = _column_lengths(part, values).clamp_min(1e-12)
                gradient.addcdiv_(values, lengths.expand_as(values), value=self._strength)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """`penalty`: λ·Σ‖·‖, the term added to the loss; `preserved_ratio`."""
        total = 0.0
        for part in (part for parts in self._parts.values() for part in parts):
            norms = part.values.abs() if self._norm == "l1" else _column_lengths(part, part.values)
            total += float(norms.sum())
        return {"penalty": self._strength * total, **super().metrics()}


def _column_lengths(part: Part, values: Tensor) -> Tensor:
    """‖column‖₂ of RW (readers: over R, one length an output) or of WR (writers: one length a channel), kept broadcast.

    In the paper's orientation a reader is [d, outputs] and a writer [inputs, d], and norms run down each column.
    """
    if values.dim() == 1:
        return torch.linalg.vector_norm(values) if part.role in ("norm", "post_norm") else values.abs()
    axis = part.axis if part.role in ("reader", "bare_reader") else 1 - part.axis
    return torch.linalg.vector_norm(values, dim=axis, keepdim=True)


class Annealing(Reducer):
    """Shrink the removed part by the gate's fall at each step, to exactly zero at step T_0 (METHOD §4).

    w ← w·g(t+1)/g(t) after optimizer step t. From T_0 on the part stays zero and the rest goes on training.
    """

    def __init__(self, removed: RemovedPart, steps_to_zero: int) -> None:
        super().__init__(removed)
        self._steps = max(1, steps_to_zero)

    def gate(self, step: int) -> float:
        """g after `step` steps: linear from 1 to 0."""
        return max(0.0, 1.0 - step / self._steps)

    def after_step(self, step: int) -> None:
        """See `workers.training.loop.Rider`."""
        before, after = self.gate(step), self.gate(step + 1)
        self._removed.shrink(after / before if before > 0.0 else 0.0)


class Proximal(Reducer):
    """Soft thresholds on whole groups after each step: w_g ← max(0, 1 - τ_t·‖w_g⁰‖/‖w_g‖)·w_g (METHOD §4).

    A group is one channel of R across all slots. τ_t grows linearly and sums to λ over the stage, so λ = 1 takes a
    group that no gradient feeds to zero exactly at the end, and λ = 4 at half time, whatever the model's width and
    the learning rate. Parts of attention heads shrink by the mean factor.
    """

    def __init__(self, removed: RemovedPart, strength: float, steps: int, sizes: Tensor) -> None:
        """`sizes`: ‖w_g⁰‖ before the first step, float64 [r]."""
        super().__init__(removed)
        self._strength, self._steps, self._sizes = strength, max(1, steps), sizes

    def threshold(self, step: int) -> float:
        """τ_t, as a fraction of a group's size at the start."""
        return self._strength * 2.0 * (step + 1) / (self._steps * (self._steps + 1))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """See `workers.training.loop.Rider`."""
        removed = self._removed
        sizes, taken = removed.group_sizes(), self.threshold(step) * self._sizes.to(removed.parts[0].weight.device)
        factors = (1.0 - taken / sizes.clamp_min(1e-300)).clamp_min(0.0)
        for part in removed.channels:
            part.shrink(factors)
        for part in removed.parts:
            if part.role == "heads":
                part.shrink(float(factors.mean()))
        for part in removed.writers:
            take_mean(part.weight.narrow(part.axis, 0, removed.kept), part.axis, 1.0 - float(factors.mean()))
