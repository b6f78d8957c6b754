"""SLEB: remove whole transformer blocks, one after the other, each time the one whose absence hurts least (METHOD §7).

After Song et al., "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer Blocks"
(2024). What stays is not changed, so the artifact is a stock checkpoint with fewer layers.

Legend: n = blocks, k = those that go, m = blocks alive at a removal, x_i = the stream as it enters block i,
s_i = cross-entropy of the calibration text, summed over its tokens, with block i skipped too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from workers.contracts.rivals import SlebSettings
from workers.contracts.training import TrainingSettings
from workers.contracts.widths import blocks_removed
from workers.errors import Diverged
from workers.models.family import ModelFamily, blocks, renamed_without, without_blocks
from workers.pruning.method import Narrowed, Preparation, Regularization, batches
from workers.training.loop import REPORTS, Keeper, Step, TrainingState
from workers.training.optimizers import Optimizers


class Sleb:
    """See the module."""

    leaves_zeros = False
    cut_in_words = (
        "silencing the blocks that go changed the logits by at most {zeroing}, and taking them out by at most {cutting}"
    )

    def check(self, settings: SlebSettings, family: ModelFamily, config: PreTrainedConfig) -> None:
        """See `Method.check`."""
        blocks_removed(config.num_hidden_layers, settings.ratio)

    def prepare(
        self, settings: SlebSettings, family: ModelFamily, task: Preparation
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """Find which blocks go: `removed`, int64 [k], in the order of removal, and `losses`, float64 [k, n].

        `losses` holds, for each removal and block, the mean cross-entropy a token, in nats, with that block gone too;
        infinity where the block was not to be had. A step is one batch of one removal; the sums so far are all there is
        to keep, so that a resumed run finds the same blocks.

        A removal among m blocks runs (m - 2)(m + 1)/2 blocks and m - 2 heads a batch, where skipping each in turn
        from the start would run (m - 2)(m - 1) blocks. Two streams [B, L, d] are held for it. The arithmetic is float32
        on a CPU and bfloat16 on a GPU, as in training.

        Raises:
            Diverged: no candidate's loss is a number.
        """
        model = task.model.eval()
        text = list(batches(task.sequences, settings.calibration_samples, settings.batch_size))
        total = model.config.num_hidden_layers
        steps = blocks_removed(total, settings.ratio) * len(text)
        state = _state(steps // len(text), total)
        sums = state.parameters["sums"]
        done = task.keeper.load(state)
        removed: list[int] = []
        for earlier in range(done // len(text)):
            removed.append(_cheapest(sums[earlier], removed))
        if done:
            yield Step(done, steps, resumed=True, earlier=tuple(state.curve))
        for step in range(done, steps):
            started = time.monotonic()
            removal, number = divmod(step, len(text))
            with _route(model, family, removed) as route:
                candidates = _candidates(total, removed)
                sums[removal, candidates] += _summed_losses(model, route, candidates, text[number])
            least = sums[removal, candidates].min().item()
            metrics = {"loss": least / _predicted(text[: number + 1])}
            is_decided = number + 1 == len(text)
            if is_decided:
                removed.append(_cheapest(sums[removal], removed))
                metrics["removed_block"] = float(removed[-1])
            yield _told(task.keeper, state, step + 1, steps, metrics, started, is_decided)
        return {"removed": torch.tensor(removed), "losses": _means(sums, removed, _predicted(text))}

    def regularize(self, settings: SlebSettings, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Nothing to train."""
        yield from ()

    @torch.no_grad()
    def zero(
        self, settings: SlebSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> None:
        """Silence the blocks that go: their writers, with their biases, add zeros to the stream."""
        names = blocks(family, model.config)
        silent = tuple(f"{names[number]}." for number in prepared["removed"].tolist())
        for slot in family.slots(model.config):
            if slot.role == "writer" and slot.parameter.startswith(silent):
                model.get_parameter(slot.parameter).zero_()

    def cut(
        self, settings: SlebSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> Narrowed:
        """The model without its removed blocks; what stays keeps its values, and later blocks move up."""
        removed = frozenset(prepared["removed"].tolist())
        kept = {
            renamed: weight.detach()
            for name, weight in model.named_parameters()
            if (renamed := renamed_without(family, name, removed)) is not None
        }
        return Narrowed(without_blocks(model.config, removed), kept)


@dataclass
class _Route:
    """Which blocks a pass goes through, and what it leaves for the next."""

    removed: frozenset[int]
    candidate: int = 0
    """The block that is skipped on trial."""
    last: int = 0
    """The last candidate: nothing follows it."""
    entering: Tensor | None = field(default=None, repr=False)
    """x_i of the candidate i; none before the first candidate, whose pass begins at the embedding."""
    following: Tensor | None = field(default=None, repr=False)
    """The stream behind the candidate: x of the next one."""


class _Station(nn.Module):
    """Stands in a block's place: runs it, or lets the stream go by.

    Masks and positions come with each pass from the model itself, so no architecture need be known here.
    """

    def __init__(self, block: nn.Module, number: int, route: _Route) -> None:
        super().__init__()
        self.block, self._number, self._route = block, number, route

    def forward(self, stream: Tensor, *places: object, **named: object) -> Tensor:
        """[B, L, d] → [B, L, d]."""
        route, number = self._route, self._number
        if number in route.removed:
            return stream
        if number < route.candidate:
            return stream if route.entering is not None else self.block(stream, *places, **named)
        if number > route.candidate:
            return self.block(stream, *places, **named)
        entering = stream if route.entering is None else route.entering
        if number != route.last:
            route.following = self.block(entering, *places, **named)
        return entering


@contextmanager
def _route(model: PreTrainedModel, family: ModelFamily, removed: Sequence[int]) -> Iterator[_Route]:
    """While the block runs, the model's passes follow the route."""
    listed = model.get_submodule(family.block_list)
    assert isinstance(listed, nn.ModuleList)  # noqa: S101  every family says its own
    route, whole = _Route(frozenset(removed)), list(listed)
    try:
        for number, block in enumerate(whole):
            listed[number] = _Station(block, number, route)
        yield route
    finally:
        for number, block in enumerate(whole):
            listed[number] = block


@torch.no_grad()
def _summed_losses(model: PreTrainedModel, route: _Route, candidates: Sequence[int], ids: Tensor) -> Tensor:
    """s_i of each candidate i on token ids [B, L], float64 [candidates].

    x_i is the same whichever block is skipped from i on, so each pass starts where the last one left it.
    """
    ids = ids.to(model.device)
    route.last, route.entering = candidates[-1], None
    sums = []
    for route.candidate in candidates:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
            logits = model(input_ids=ids, use_cache=False).logits
        parts = [  # one sequence after the other: the logits are never held twice
            F.cross_entropy(row[:-1].float(), row_ids[1:], reduction="sum").double()
            for row, row_ids in zip(logits, ids, strict=True)
        ]
        sums.append(torch.stack(parts).sum().cpu())
        route.entering = route.following
    return torch.stack(sums)


def _state(count: int, total: int) -> TrainingState:
    """What a checkpoint holds: the sums s [k, n]. Nothing is optimized."""
    sums = {"sums": nn.Parameter(torch.zeros(count, total, dtype=torch.float64), requires_grad=False)}
    idle = Optimizers(sums, TrainingSettings(learning_rate=1e-3), seed=0)
    return TrainingState(sums, idle, torch.amp.GradScaler("cpu", enabled=False))


def _told(
    keeper: Keeper,
    state: TrainingState,
    step: int,
    steps: int,
    metrics: dict[str, float],
    started_seconds: float,
    is_decided: bool,
) -> Step:
    """The step as it is reported: each removal is, and some batches before it. Takes a checkpoint if one is due."""
    is_reported = is_decided or step % max(1, steps // REPORTS) == 0
    if is_reported:
        state.curve.append((step, metrics))
    if checkpointed := keeper.due(step, steps):
        keeper.save(step, state)
    seconds = {"seconds": time.monotonic() - started_seconds}
    return Step(step, steps, {**metrics, **seconds} if is_reported else {}, checkpointed)


def _predicted(text: Sequence[Tensor]) -> int:
    """Tokens on which cross-entropy is taken: all but the first of each sequence."""
    return sum(batch[:, 1:].numel() for batch in text)


def _candidates(total: int, removed: Sequence[int]) -> list[int]:
    """The blocks that may go next: all that live but the first and the last."""
    return [number for number in range(1, total - 1) if number not in removed]


def _cheapest(sums: Tensor, removed: Sequence[int]) -> int:
    """The candidate of the least s; of equals the first."""
    candidates = _candidates(len(sums), removed)
    found = min(candidates, key=lambda number: value if math.isfinite(value := sums[number].item()) else math.inf)
    if not sums[found].isfinite():
        raise Diverged(
            "the calibration text's loss is no finite number whichever block is skipped; check the model's weights, "
            "or choose another method.kind"
        )
    return found


def _means(sums: Tensor, removed: Sequence[int], tokens: int) -> Tensor:
    """s as means over the tokens predicted, infinity where a block was no candidate: float64 [k, n]."""
    means = torch.full(sums.shape, math.inf, dtype=torch.float64)
    for removal in range(len(removed)):
        candidates = _candidates(sums.shape[1], removed[:removal])
        means[removal, candidates] = sums[removal, candidates].detach() / tokens
    return means


METHOD = Sleb()
