"""The penalty's gradient is that of the paper's term; shrinking reaches exactly zero, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from workers.models.family import family_of
from workers.pruning.groups import Annealing, Penalty, Proximal, RemovedPart

KEPT = 24
STRENGTH = 0.01


def term(model: PreTrainedModel, norm: str, start: int) -> torch.Tensor:
    """λ·Σ‖·‖ written down from Eqs. 2-4 in the paper's orientation, by autograd and without the code under test."""
    total = torch.zeros(())
    for slot in family_of(model.config).slots(model.config):
        weight = model.get_parameter(slot.parameter)
        if weight.dim() == 1:
            part = weight[start:, None] if slot.role == "norm" else weight[None, start:]
        elif slot.role == "reader":
            part = weight.T[start:, :]  # RW, W in [d, outputs]
        else:
            part = (weight if slot.axis == 1 else weight.T)[:, start:]  # WR, W in [inputs, d]
        total = total + (part.abs().sum() if norm == "l1" else part.pow(2).sum(0).sqrt().sum())
    return STRENGTH * total


def removed_of(model: PreTrainedModel) -> RemovedPart:
    return RemovedPart(model, family_of(model.config), KEPT)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("acts_on", ["removed", "ordered", "all"])
def test_the_penalty_is_the_papers(norm: str, tied: bool, acts_on: str) -> None:
    """An ordered one is the mean of the papers' at its widths."""
    model = tiny_llama(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True)
    starts = {"removed": [KEPT], "ordered": [KEPT, 28, 20], "all": [0]}[acts_on]
    wanted = torch.stack([term(model, norm, start) for start in starts]).mean()
    wanted.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    widths = starts if acts_on == "ordered" else []
    penalty = Penalty(removed_of(model), norm, STRENGTH, everything=acts_on == "all", widths=widths)
    for name, weight in model.named_parameters():
        penalty.add_gradient(name, weight)
    assert penalty.metrics()["penalty"] == pytest.approx(wanted.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        expected = gradients.get(name, torch.zeros_like(weight))
        assert torch.allclose(weight.grad, expected, atol=1e-7), name


def test_annealing_reaches_exactly_zero_and_stays() -> None:
    model = tiny_llama()
    removed = removed_of(model)
    kept_before = model.model.embed_tokens.weight[:, :KEPT].clone()
    annealing = Annealing(removed, steps_to_zero=5)
    ratios = []
    for step in range(8):
        with torch.no_grad():
            for part in removed.parts:
                part.values.add_(1e-3)  # an optimizer that pulls the other way
        annealing.after_step(step)
        ratios.append(removed.preserved_ratio())
    assert ratios[0] == pytest.approx(0.8, abs=0.05)
    assert sorted(ratios, reverse=True) == ratios
    assert ratios[3] > 0
    assert ratios[4:] == [0.0] * 4
    assert torch.equal(model.model.embed_tokens.weight[:, :KEPT], kept_before)


@given(strength=st.floats(0.2, 20.0), steps=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_soft_thresholds_take_what_lambda_says(strength: float, steps: int) -> None:
    """Nothing feeds the groups here: each ends at (1 - λ) of its size, or at exactly zero."""
    model = tiny_llama()
    removed = removed_of(model)
    sizes = removed.group_sizes()
    kept_before = model.model.layers[0].mlp.down_proj.weight[:KEPT].clone()
    proximal = Proximal(removed, strength, steps, sizes)
    for step in range(steps):
        proximal.after_step(step)
    left = removed.group_sizes() / sizes
    assert torch.allclose(left, torch.full_like(left, max(0.0, 1 - strength)), atol=1e-5)
    if strength > 1.001:
        assert not left.any()
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight[:KEPT], kept_before)


def test_a_group_is_one_channel_across_all_slots() -> None:
    model = tiny_llama()
    removed = removed_of(model)
    with torch.no_grad():
        for part in removed.parts:
            part.values.zero_()
        model.model.layers[1].self_attn.q_proj.weight[:, KEPT + 2] = 3.0
        model.model.norm.weight[KEPT + 2] = 4.0
    rows = len(model.model.layers[1].self_attn.q_proj.weight)
    assert removed.group_sizes().tolist() == pytest.approx([0.0, 0.0, (9 * rows + 16) ** 0.5, *[0.0] * 5])
