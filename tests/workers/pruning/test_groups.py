"""The penalty's gradient is that of the paper's term; annealing reaches exactly zero, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from workers.models.family import family_of
from workers.pruning.groups import Annealing, Penalty, RemovedPart

KEPT = 24
STRENGTH = 0.01


def term(model: PreTrainedModel, norm: str) -> torch.Tensor:
    """λ·Σ‖·‖ written down from Eqs. 2-4 in the paper's orientation, by autograd and without the code under test."""
    total = torch.zeros(())
    for slot in family_of(model.config).slots(model.config):
        weight = model.get_parameter(slot.parameter)
        if weight.dim() == 1:
            part = weight[KEPT:, None] if slot.role == "norm" else weight[None, KEPT:]
        elif slot.role == "reader":
            part = weight.T[KEPT:, :]  # RW, W in [d, outputs]
        else:
            part = (weight if slot.axis == 1 else weight.T)[:, KEPT:]  # WR, W in [inputs, d]
        total = total + (part.abs().sum() if norm == "l1" else part.pow(2).sum(0).sqrt().sum())
    return STRENGTH * total


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_penalty_is_the_papers(norm: str, tied: bool) -> None:
    model = tiny_llama(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True)
    wanted = term(model, norm)
    wanted.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    penalty = Penalty(RemovedPart(model, family_of(model.config), KEPT), norm, STRENGTH)
    penalty.add_gradient()
    assert penalty.metrics()["penalty"] == pytest.approx(wanted.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        expected = gradients.get(name, torch.zeros_like(weight))
        assert torch.allclose(weight.grad, expected, atol=1e-7), name


def test_annealing_reaches_exactly_zero_and_stays() -> None:
    model = tiny_llama()
    removed = RemovedPart(model, family_of(model.config), KEPT)
    kept_before = model.model.embed_tokens.weight[:, :KEPT].clone()
    annealing = Annealing(removed, steps_to_zero=5)
    ratios = []
    for step in range(8):
        with torch.no_grad():
            for slot, weight in removed.slots:
                removed.view(slot, weight).add_(1e-3)  # an optimizer that pulls the other way
        annealing.after_step(step)
        ratios.append(removed.preserved_ratio())
    assert ratios[0] == pytest.approx(0.8, abs=0.05)
    assert sorted(ratios, reverse=True) == ratios
    assert ratios[3] > 0
    assert ratios[4:] == [0.0] * 4
    assert torch.equal(model.model.embed_tokens.weight[:, :KEPT], kept_before)
