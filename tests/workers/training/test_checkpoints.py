"""When checkpoints are taken, that taking them changes nothing, and what a damaged one costs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import tiny_llama
from workers.contracts.recipe import Resources
from workers.contracts.training import TrainingSettings
from workers.local_store import LocalStore
from workers.training.checkpoints import TrainingCheckpoints
from workers.training.loop import Step, TrainingState, train
from workers.training.objectives import language_modelling
from workers.training.optimizers import Optimizers

KEY = "cd" * 32
SEQUENCES = torch.randint(300, (24, 16), generator=torch.Generator().manual_seed(3))
SETTINGS = TrainingSettings(batch_size=2, weights="bfloat16", learning_rate=5e-4)


def state() -> TrainingState:
    parameters = {"weight": nn.Parameter(torch.ones(3))}
    return TrainingState(
        parameters,
        Optimizers(parameters, TrainingSettings(learning_rate=5e-4), 0),
        torch.amp.GradScaler("cpu", enabled=False),
    )


def steps_with(keeper: TrainingCheckpoints) -> tuple[nn.Module, Iterator[Step]]:
    model = tiny_llama(attention_dropout=0.1)
    return model, train(model, SEQUENCES, SETTINGS, language_modelling(model), seed=5, keeper=keeper)


def test_checkpoints_by_the_clock_change_nothing(tmp_path: Path) -> None:
    """The clock of each run has a speed of its own, so they take checkpoints at other steps, or at none."""
    ends, saved = [], []
    for number, minutes_a_look in enumerate((0.0, 1.1, 3.7)):
        looks = count()
        keeper = TrainingCheckpoints(
            LocalStore(tmp_path / f"store-{number}"),
            KEY,
            tmp_path / f"workspace-{number}",
            Resources(checkpoint_every_steps=1000, checkpoint_every_minutes=5.0),
            clock=lambda looks=looks, speed=minutes_a_look: 60 * speed * next(looks),
        )
        model, steps = steps_with(keeper)
        saved.append([step.step for step in steps if step.checkpointed])
        ends.append([weight.clone() for weight in model.parameters()])
    assert saved[0] == []
    assert len(saved[2]) > len(saved[1]) > 0
    for one, other, third in zip(*ends, strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


@pytest.mark.parametrize(
    ("resources", "steps", "wanted"),
    [
        (Resources(), 100, [10, 20, 30, 40, 50, 60, 70, 80, 90]),
        (Resources(), 4, [1, 2, 3]),
        (Resources(checkpoint_every_steps=30), 100, [30, 60, 90]),
        (Resources(checkpoint_every_minutes=None), 30, [3, 6, 9, 12, 15, 18, 21, 24, 27]),
    ],
)
def test_by_default_ten_a_stage(resources: Resources, steps: int, wanted: list[int], tmp_path: Path) -> None:
    keeper = TrainingCheckpoints(LocalStore(tmp_path / "store"), KEY, tmp_path / "one", resources, clock=lambda: 0.0)
    assert [step for step in range(1, steps + 1) if keeper.due(step, steps)] == wanted


def test_a_long_stage_is_kept_every_ten_minutes(tmp_path: Path) -> None:
    now = [0.0]
    keeper = TrainingCheckpoints(
        LocalStore(tmp_path / "store"), KEY, tmp_path / "one", Resources(), clock=lambda: now[0]
    )
    taken = []
    for step in range(1, 61):  # a minute each
        now[0] += 60
        if keeper.due(step, 6000):
            keeper.save(step, state())
            taken.append(step)
    assert taken == [10, 20, 30, 40, 50, 60]


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    keeper = TrainingCheckpoints(LocalStore(tmp_path / "store"), KEY, tmp_path / "one", Resources())
    for step in (1, 2, 3):
        keeper.save(step, state())
    assert len(list((tmp_path / "store" / "checkpoints" / KEY).iterdir())) == 1
    assert TrainingCheckpoints(LocalStore(tmp_path / "store"), KEY, tmp_path / "two", Resources()).found() == 3


@pytest.mark.parametrize("part", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_dropped(part: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    kept = TrainingCheckpoints(store, KEY, tmp_path / "one", Resources())
    assert kept.found() is None
    kept.save(4, state())
    assert TrainingCheckpoints(store, KEY, tmp_path / "two", Resources()).found() == 4
    (damaged,) = (tmp_path / "store" / "checkpoints" / KEY).glob(f"*/{part}")
    damaged.write_bytes(damaged.read_bytes()[:5])
    assert TrainingCheckpoints(store, KEY, tmp_path / "three", Resources()).found() is None
    assert store.load_checkpoint(KEY, tmp_path / "four") is None
