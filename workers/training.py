"""The one training loop: the regularize and the recover stage both use it.

Legend: B = batch size, L = sequence length, V = vocabulary size, T = steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.contracts.training import TrainingSettings
from workers.errors import Diverged


class Rider(Protocol):
    """What may ride on the loop: see `workers.pruning.groups.Regularizer`."""

    def add_gradient(self) -> None: ...
    def after_step(self, step: int) -> None: ...
    def metrics(self) -> dict[str, float]: ...


class Keeper(Protocol):
    """Where the loop leaves checkpoints and finds them: see `workers.checkpoints.TrainingCheckpoints`."""

    def load(self, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int: ...
    def due(self, step: int, steps: int) -> bool: ...
    def save(self, step: int, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None: ...


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


Objective = Callable[[Tensor], Tensor]
"""Token ids [B, L] → scalar loss."""


def language_modelling(model: nn.Module) -> Objective:
    """Mean cross-entropy of the next token, in nats."""

    def loss(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits  # [B, L, V]
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())

    return loss


def distillation(model: nn.Module, teacher: nn.Module, share: float) -> Objective:
    """(1 - share)·cross-entropy + share·KL(teacher ‖ model), both means over tokens, in nats."""

    def loss(ids: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.log_softmax(teacher(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float(), -1)
        given = F.log_softmax(model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float(), -1)
        cross_entropy = F.nll_loss(given, ids[:, 1:].flatten())
        divergence = F.kl_div(given, wanted, log_target=True, reduction="batchmean")
        return (1 - share) * cross_entropy + share * divergence

    return loss


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
) -> Iterator[Step]:
    """Train the parameters that require a gradient, yielding after each step.

    The whole state is (parameters, optimizer, random state, step): data order and learning rate follow from the step
    alone, so a run resumed from the keeper's checkpoint takes the same path as one that was never interrupted.

    Args:
        sequences: token ids [samples, L].
    Raises:
        Diverged: the loss of a reported step is not finite.
    """
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    device = next(iter(parameters.values())).device
    steps = steps_of(len(sequences), settings)
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    torch.manual_seed(seed)
    model.train()
    done = keeper.load(parameters, optimizer) if keeper else 0
    if done:
        yield Step(done, steps, resumed=True)
    for step in range(done, steps):
        started = time.monotonic()
        ids = batch(sequences, step, settings.batch_size, seed).to(device)
        rate = _learning_rate(step, steps, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = objective(ids)
        loss.backward()
        if rider:
            rider.add_gradient()
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters.values(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if rider:
            rider.after_step(step)
        done = step + 1
        checkpointed = keeper is not None and keeper.due(done, steps)
        if keeper and checkpointed:
            _finite(loss, done)  # a diverged state is not worth keeping
            keeper.save(done, parameters, optimizer)
        metrics: dict[str, float] = {}
        if done % max(1, steps // REPORTS) == 0 or done == steps:
            metrics = {"loss": _finite(loss, done), "learning_rate": rate, "seconds": time.monotonic() - started}
            metrics |= rider.metrics() if rider else {}
        yield Step(done, steps, metrics, checkpointed)


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


def _learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then cosine decay to `final_fraction` of the peak at the last step."""
    warmup = round(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    floor = settings.final_fraction
    return settings.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
