"""AdamW with small moments and small weights: close to the large one, and rounded without bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.conftest import tiny_llama
from workers.contracts.training import TrainingSettings
from workers.training import optimizers
from workers.training.loop import train
from workers.training.objectives import language_modelling
from workers.training.optimizers import Optimizers, stochastically_rounded

SETTINGS = TrainingSettings(batch_size=8, learning_rate=1e-2, weight_decay=0.1, clip_norm=None)


def settings_of(**changes: object) -> TrainingSettings:
    return TrainingSettings.model_validate({**SETTINGS.model_dump(), **changes})


def updated(
    settings: TrainingSettings, dtype: torch.dtype, elements: int, steps: int = 4, seed: int = 0
) -> nn.Parameter:
    """One parameter after updates by fixed random gradients."""
    random = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(elements, generator=random).to(dtype))
    these = Optimizers({"weight": weight}, settings, seed)
    for _ in range(steps):
        these.set_rate(settings.peak_rate)
        weight.grad = torch.randn(elements, generator=random).to(dtype)
        these.all[0].step()
    return weight


def test_rounding_is_right_on_average_and_leaves_what_fits() -> None:
    wide = torch.full((200_000,), 1.0) + torch.tensor([0.1, 0.25, 0.5, 0.75]).repeat(50_000) * 2.0**-7
    rounded = stochastically_rounded(wide, torch.Generator().manual_seed(0))
    assert rounded.dtype == torch.bfloat16
    assert set(rounded.float().unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    ups = (rounded.view(-1, 4).float() > 1).float().mean(0)
    assert torch.allclose(ups, torch.tensor([0.1, 0.25, 0.5, 0.75]), atol=0.01)
    exact = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-130, float("inf"), -float("inf")])
    assert torch.equal(stochastically_rounded(exact, torch.Generator().manual_seed(0)).float(), exact)


def test_updates_too_small_for_bfloat16_are_not_lost() -> None:
    """A rate of 1e-4 moves a weight of 1 by a fortieth of bfloat16's spacing there."""
    weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    these = Optimizers({"weight": weight}, settings_of(weight_decay=0.0), seed=0)
    for _ in range(100):
        these.set_rate(1e-4)
        weight.grad = torch.ones_like(weight)
        these.all[0].step()
    assert weight.float().mean().item() == pytest.approx(1 - 100 * 1e-4, abs=1e-3)


def test_the_noise_is_the_seeds() -> None:
    one, same, other = (updated(SETTINGS, torch.bfloat16, 5000, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_float32_weights_and_moments_are_torchs() -> None:
    assert torch.equal(
        updated(SETTINGS, torch.float32, 5000),
        updated(settings_of(step_in_backward=True), torch.float32, 5000),
    )
    assert isinstance(Optimizers({"weight": nn.Parameter(torch.ones(3))}, SETTINGS, 0).all[0], torch.optim.AdamW)


def test_bfloat16_weights_follow_float32_ones() -> None:
    wanted, given = (updated(SETTINGS, dtype, 5000) for dtype in (torch.float32, torch.bfloat16))
    assert (wanted - given.float()).abs().max() < 0.1  # four roundings of weights up to four
    assert abs((wanted - given.float()).mean()) < 5e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_chunks_change_nothing(dtype: torch.dtype, eight_bit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(optimizer="adamw_8bit" if eight_bit else "adamw")
    whole = updated(settings, dtype, 5000, steps=1)
    monkeypatch.setitem(optimizers.CHUNK_ELEMENTS, "cpu", 2 * optimizers.BLOCK_ELEMENTS)
    apart = updated(settings, dtype, 5000, steps=1)
    if dtype == torch.float32:
        assert torch.equal(whole, apart)
    else:  # the noise is drawn chunk by chunk
        assert (whole.float() - apart.float()).abs().max() < 0.05


def test_small_tensors_keep_wide_moments() -> None:
    weight = nn.Parameter(torch.ones(64))
    these = Optimizers({"weight": weight}, settings_of(optimizer="adamw_8bit"), 0)
    weight.grad = torch.ones(64)
    these.all[0].step()
    assert {name: kept.dtype for name, kept in these.state(weight).items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), torch.float32
    )


@pytest.mark.parametrize("changes", [{"optimizer": "adamw_8bit"}, {"weights": "bfloat16"}], ids=["8-bit", "bfloat16"])
def test_training_ends_where_plain_adamw_does(changes: dict) -> None:
    """A rule that a tiny model can learn: each token is the one before plus seven. Losses differ by percents."""
    starts = torch.randint(300, (64, 1), generator=torch.Generator().manual_seed(0))
    sequences = (starts + 7 * torch.arange(24)) % 300
    losses = []
    for settings in (settings_of(epochs=8), settings_of(epochs=8, **changes)):
        model = tiny_llama()
        *_, last = train(model, sequences, settings, language_modelling(model), seed=0)
        losses.append(last.metrics["loss"])
    assert losses[0] < 4.0
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
