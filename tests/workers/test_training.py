"""The training loop: it learns, its order follows from the seed, and a resumed run takes the very same path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_llama
from workers.checkpoints import TrainingCheckpoints
from workers.contracts.training import TrainingSettings
from workers.errors import Diverged
from workers.local_store import LocalStore
from workers.training import batch, distillation, language_modelling, steps_of, train

SEQUENCES = torch.randint(300, (24, 32), generator=torch.Generator().manual_seed(3))
SETTINGS = TrainingSettings(batch_size=4, epochs=2, learning_rate=1e-2)
KEY = "ab" * 32


def checkpoints_in(folder: Path) -> TrainingCheckpoints:
    return TrainingCheckpoints(LocalStore(folder / "store"), KEY, folder / "workspace", every_steps=2)


def test_the_loss_falls() -> None:
    model = tiny_llama()
    losses = [step.metrics["loss"] for step in train(model, SEQUENCES, SETTINGS, language_modelling(model), seed=0)]
    assert len(losses) == steps_of(24, SETTINGS) == 12
    assert losses[-1] < losses[0] - 0.5


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = tiny_llama(attention_dropout=0.1)
    for _ in train(undisturbed, SEQUENCES, SETTINGS, language_modelling(undisturbed), seed=5):
        pass
    interrupted = tiny_llama(attention_dropout=0.1)
    keeper = checkpoints_in(tmp_path)
    assert keeper.found() is None
    for step in train(interrupted, SEQUENCES, SETTINGS, language_modelling(interrupted), seed=5, keeper=keeper):
        if step.step == 7:
            break
    torch.manual_seed(999)
    resumed = tiny_llama(attention_dropout=0.1)
    keeper = checkpoints_in(tmp_path)
    assert keeper.found() == 6
    steps = list(train(resumed, SEQUENCES, SETTINGS, language_modelling(resumed), seed=5, keeper=keeper))
    assert steps[0].resumed
    assert [step.step for step in steps] == [6, *range(7, 13)]
    for (name, wanted), given in zip(undisturbed.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(wanted, given), name


def test_each_epoch_sees_every_sequence_once_in_an_order_of_its_own() -> None:
    epochs = [torch.cat([batch(SEQUENCES, step, 5, seed=1) for step in range(start, start + 5)]) for start in (0, 5)]
    for epoch in epochs:
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, SEQUENCES.tolist()))
    assert not torch.equal(*epochs)


def test_distillation_of_a_model_from_itself_leaves_the_cross_entropy() -> None:
    model, teacher = tiny_llama(), tiny_llama()
    ids = SEQUENCES[:2]
    assert distillation(model, teacher, 1.0)(ids).item() == pytest.approx(0.0, abs=1e-5)
    plain = language_modelling(model)(ids).item()
    assert distillation(model, teacher, 0.0)(ids).item() == pytest.approx(plain, rel=1e-5)


def test_a_loss_that_is_no_number_ends_the_run_at_once() -> None:
    model = tiny_llama()
    plain = language_modelling(model)
    calls = iter(range(100))
    steps = train(
        model, SEQUENCES, SETTINGS, lambda ids: plain(ids) * (1.0 if next(calls) < 3 else float("nan")), seed=0
    )
    with pytest.raises(Diverged, match="step 4") as ended:
        list(steps)
    assert ended.value.fault == "recipe"
