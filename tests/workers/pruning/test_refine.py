"""Refined axes stay orthonormal, span less loss, and leave the model alone."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import tiny_llama
from workers.contracts.training import TrainingSettings
from workers.models.family import family_of
from workers.pruning import basis
from workers.pruning.method import Preparation
from workers.pruning.refine import Subspace, refined_axes
from workers.training.loop import Step

KEPT = 20


def refine(seed: int) -> tuple[torch.Tensor, torch.Tensor, list[Step]]:
    model = tiny_llama()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    sequences = torch.randint(300, (48, 16), generator=torch.Generator().manual_seed(seed))
    axes = basis.principal_axes(basis.stream_statistics(model, family_of(model.config), [sequences]).activation)
    task = Preparation(model, sequences, seed=seed, keeper=None)
    training = TrainingSettings(learning_rate=0.02, batch_size=8, epochs=6, clip_norm=None)
    steps = []
    run = refined_axes(axes, [KEPT], family_of(model.config), task, sequences, training)
    while True:
        try:
            steps.append(next(run))
        except StopIteration as end:
            refined = end.value
            break
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    return axes, refined, steps


def test_the_divergence_falls_and_the_axes_stay_orthonormal() -> None:
    axes, refined, steps = refine(1)
    assert steps[-1].metrics["loss"] < 0.9 * steps[0].metrics["loss"]
    assert torch.allclose(refined.T @ refined, torch.eye(32, dtype=torch.float64), atol=1e-12)
    assert (refined - axes).abs().max() > 1e-2
    assert torch.equal(refine(1)[1], refined)


@pytest.mark.parametrize(("size", "widths"), [(8, [3]), (9, [8]), (8, [4]), (6, [3, 5])])
def test_no_angle_is_no_turn(size: int, widths: list[int]) -> None:
    axes = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    assert torch.allclose(Subspace(axes, widths).basis(), axes[:, : widths[0]].float(), atol=1e-6)
