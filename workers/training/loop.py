"""The one training loop: the regularize and the recover stage both use it.

Legend: B = batch size, L = sequence length, T = steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.contracts.training import TrainingSettings
from workers.errors import Diverged
from workers.training.objectives import Objective, Parts
from workers.training.optimizers import Optimizers


class Rider(Protocol):
    """What may ride on the loop: see `workers.pruning.groups`."""

    def before_step(self, step: int) -> None:
        """Before the forward pass of optimizer step `step` (from 0), once a step."""
        ...

    def add_gradient(self, name: str, weight: nn.Parameter) -> None:
        """`weight.grad` is complete: add the penalty's gradient to it, before clipping and the update."""
        ...

    def after_step(self, step: int) -> None:
        """After the optimizer's update of all parameters."""
        ...

    def metrics(self) -> dict[str, float]:
        """Figures for the progress events."""
        ...


Point = tuple[int, dict[str, float]]
"""A reported step, and its figures that the machine's speed does not decide."""


@dataclass(frozen=True)
class TrainingState:
    """All that changes while training, besides the random state and the step."""

    parameters: dict[str, nn.Parameter]
    """Those that are trained."""
    optimizers: Optimizers
    scaler: torch.amp.GradScaler
    """Scales the loss under float16; switched off otherwise."""
    curve: list[Point] = field(default_factory=list)
    """What was reported so far, so that a resumed run can tell its whole story."""


class Keeper(Protocol):
    """Where the loop leaves checkpoints and finds them: see `workers.training.checkpoints`."""

    def load(self, state: TrainingState) -> int:
        """Put the newest checkpoint into the state; its step, 0 if there is none."""
        ...

    def due(self, step: int, steps: int) -> bool:
        """Whether a checkpoint should be taken after this step."""
        ...

    def save(self, step: int, state: TrainingState) -> None:
        """Keep the state in place of the one before."""
        ...


REPORTS = 200
"""At most about so many steps of a stage are reported: figures cost time, and events are kept for ever."""


@dataclass(frozen=True)
class Step:
    """One step of training, done."""

    step: int
    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    """Empty on the steps that are not reported."""
    checkpointed: bool = False
    resumed: bool = False
    earlier: tuple[Point, ...] = ()
    """On the step that a run resumes from: what was reported before it."""


def steps_of(samples: int, settings: TrainingSettings) -> int:
    """T: optimizer steps over all epochs; the last batch of an epoch may be smaller."""
    return math.ceil(samples / settings.batch_size) * settings.epochs


def train(
    model: nn.Module,
    sequences: Tensor,
    settings: TrainingSettings,
    objective: Objective,
    *,
    seed: int,
    rider: Rider | None = None,
    keeper: Keeper | None = None,
    parts: Parts | None = None,
    held: Collection[str] = (),
) -> Iterator[Step]:
    """Train the parameters that require a gradient, yielding after each step.

    The whole state is (parameters, optimizers, loss scale, random state, step): data order, learning rate and rounding
    follow from the step alone, so a run resumed from the keeper's checkpoint takes the same path as one that was never
    interrupted.

    Args:
        sequences: token ids [samples, L].
        settings: `weights: bfloat16` casts the parameters in place at the first step, unless some are frozen.
        objective: of this model; see `workers.training.objectives`.
        parts: where the objective leaves its terms, to be reported along with the loss.
        held: names of parameters that no gradient changes; riders still may, and checkpoints hold them.
    Raises:
        Diverged: the loss of a reported step is not finite.
    """
    hold_weights(model, settings)
    steps, state = steps_of(len(sequences), settings), _state(model, settings, seed)
    device = next(iter(state.parameters.values())).device
    torch.manual_seed(seed)
    model.train()
    with _activations_dropped(model, settings), _updates_in_backward(state, settings, rider, held):
        done = keeper.load(state) if keeper else 0
        if done:
            yield Step(done, steps, resumed=True, earlier=tuple(state.curve))
        for step in range(done, steps):
            started = time.monotonic()
            ids = batch(sequences, step, settings.batch_size, seed).to(device)
            rate = learning_rate(step, steps, settings)
            state.optimizers.set_rate(rate)
            if rider:
                rider.before_step(step)
            loss, terms = _gradients(objective, ids, settings, state.scaler, parts)
            if not settings.step_in_backward:
                _update(state, settings, rider, held)
            if rider:
                rider.after_step(step)
            done = step + 1
            metrics: dict[str, float] = {}
            if done % max(1, steps // REPORTS) == 0 or done == steps:
                metrics = {"loss": _finite(loss, done), "learning_rate": rate, "seconds": time.monotonic() - started}
                metrics |= {name: term.item() for name, term in terms.items()}
                metrics |= {"loss_scale": state.scaler.get_scale()} if state.scaler.is_enabled() else {}
                metrics |= rider.metrics() if rider else {}
                state.curve.append((done, {name: value for name, value in metrics.items() if name != "seconds"}))
            checkpointed = keeper is not None and keeper.due(done, steps)
            if keeper and checkpointed:
                _finite(loss, done)  # a diverged state is not worth keeping
                keeper.save(done, state)
            yield Step(done, steps, metrics, checkpointed)


def hold_weights(model: nn.Module, settings: TrainingSettings) -> None:
    """Cast every parameter to the type that the settings name, keeping the `Parameter` objects.

    Where some parameters are frozen the others are adapters: they keep float32, and only the frozen ones are cast.
    """
    if settings.weights == "float32":
        return
    adapters = not all(weight.requires_grad for weight in model.parameters())
    for weight in model.parameters():
        if not (adapters and weight.requires_grad):
            weight.data = weight.data.to(torch.bfloat16)


def _state(model: nn.Module, settings: TrainingSettings, seed: int) -> TrainingState:
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    device = next(iter(parameters.values())).device
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
    return TrainingState(parameters, Optimizers(parameters, settings, seed), scaler)


def _gradients(
    objective: Objective, ids: Tensor, settings: TrainingSettings, scaler: torch.amp.GradScaler, parts: Parts | None
) -> tuple[Tensor, Parts]:
    """Backward of the batch's mean loss, in slices of about equal size; the loss and its terms, detached.

    Every token counts the same, whatever the size of its slice: a slice's mean loss is weighted by its sequences.
    """
    slices = ids.split(settings.sequences_at_once)
    losses: list[Tensor] = []
    terms: Parts = {}
    for part in slices:
        with autocast(ids.device, settings):
            loss = objective(part)
        share = len(part) / len(ids)
        if len(slices) > 1:
            loss = loss * share
        scaler.scale(loss).backward()
        losses.append(loss.detach())
        for name, term in (parts or {}).items():
            terms[name] = terms[name] + term * share if name in terms else term * share
    return torch.stack(losses).sum(), terms


def _update(state: TrainingState, settings: TrainingSettings, rider: Rider | None, held: Collection[str]) -> None:
    """The optimizer's step on whole gradients: unscaled, with the rider's part, clipped. Frees the gradients."""
    (optimizer,) = state.optimizers.all
    for name in held:
        state.parameters[name].grad = None
    state.scaler.unscale_(optimizer)
    if rider:
        for name, weight in state.parameters.items():
            if name not in held:
                rider.add_gradient(name, weight)
    if settings.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.parameters.values(), settings.clip_norm)
    state.scaler.step(optimizer)
    state.scaler.update()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _updates_in_backward(
    state: TrainingState, settings: TrainingSettings, rider: Rider | None, held: Collection[str]
) -> Iterator[None]:
    """Where asked for, update each parameter inside backward, as soon as its gradient is complete, and free that.

    A gradient is complete when every use of the weight has added to it, so a tied weight waits for its last use.
    """

    def update(name: str, weight: nn.Parameter) -> None:
        if name not in held:
            if rider:
                rider.add_gradient(name, weight)
            state.optimizers.of(weight).step()
        weight.grad = None

    handles = []
    if settings.step_in_backward:
        for name, weight in state.parameters.items():
            handles.append(weight.register_post_accumulate_grad_hook(partial(update, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _activations_dropped(model: PreTrainedModel, settings: TrainingSettings) -> Iterator[None]:
    """Where asked for, keep one activation a layer and compute the rest again in the backward pass."""
    if not settings.activation_checkpointing:
        yield
        return
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def autocast(device: torch.device, settings: TrainingSettings) -> torch.autocast:
    """The arithmetic's type: weights keep theirs, matrices are multiplied in the one asked for."""
    asked = settings.precision
    if asked == "auto":
        asked = "bfloat16" if device.type == "cuda" else "float32"
    wanted = torch.bfloat16 if asked == "float32" else getattr(torch, asked)
    return torch.autocast(device.type, wanted, enabled=asked != "float32")


def batch(sequences: Tensor, step: int, batch_size: int, seed: int) -> Tensor:
    """The token ids [≤B, L] of a step: each epoch in an order of its own, which the seed and the epoch decide."""
    per_epoch = math.ceil(len(sequences) / batch_size)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed + epoch))
    return sequences[order[place * batch_size : (place + 1) * batch_size]]


def _finite(loss: Tensor, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(
            f"the loss is {value} at step {step}; lower the stage's training.learning_rate, or method.strength"
        )
    return value


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then the schedule's way to `final_fraction` of the peak at the last step."""
    warmup = round(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.peak_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.peak_rate
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    floor = settings.final_fraction
    left = 1 - progress if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.peak_rate * (floor + (1 - floor) * left)
