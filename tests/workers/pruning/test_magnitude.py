"""Magnitude cuts the channels of least weight, with the machinery of DReSS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_llama
from tests.workers.models.trials import SEQUENCES, NoKeeper, apart, dense, logits, result_of
from workers.contracts.methods import DressSettings
from workers.contracts.rivals import MagnitudeSettings
from workers.errors import RecipeError
from workers.models.family import family_of
from workers.pruning import dress
from workers.pruning.magnitude import METHOD
from workers.pruning.method import Method, Preparation, Regularization


def cut(method: Method, wanted: Any, name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors of the cut model, and what was prepared for them."""
    model = dense(name)
    family = family_of(model.config)
    found = result_of(method.prepare(wanted, family, Preparation(model, SEQUENCES, 0, NoKeeper())))
    task = Regularization(model, Path("none"), found, SEQUENCES, 0, NoKeeper(), resumed=False)
    assert list(method.regularize(wanted, family, task)) == []
    return dict(method.cut(wanted, family, model, found).weights), found


@pytest.mark.parametrize("name", ["llama", "opt", "phi", "gemma2"])
@pytest.mark.parametrize("changes", [{}, {"exact_norms": False}, {"round_to": 12}, {"export": "native"}], ids=str)
def test_it_is_dress_without_its_training(name: str, changes: dict[str, Any]) -> None:
    plain = {"basis": "channels", "channels": "magnitude", "solver": "none"}
    ours, _ = cut(METHOD, MagnitudeSettings(ratio=0.5, **changes), name)
    theirs, _ = cut(dress.METHOD, DressSettings.model_validate({"ratio": 0.5, **plain, **changes}), name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[each]) for each, weight in ours.items())


@examples(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 23), min_size=12, max_size=12, unique=True))
def test_the_channels_of_least_weight_go(weak: list[int]) -> None:
    """Channels made weak by hand, wherever they stand."""
    model = dense("llama")
    family = family_of(model.config)
    with torch.no_grad():
        for slot in family.slots(model.config):
            weight = model.get_parameter(slot.parameter)
            weight.index_copy_(slot.axis, torch.tensor(weak), 0.1 * weight.index_select(slot.axis, torch.tensor(weak)))
    task = Preparation(model, SEQUENCES, 0, NoKeeper())
    found = result_of(METHOD.prepare(MagnitudeSettings(ratio=0.5), family, task))
    assert set(found["order"][-12:].tolist()) == set(weak)


@pytest.mark.parametrize("name", ["opt", "phi", "gpt_neox"])
def test_under_layer_norm_too_the_cut_itself_costs_nothing(name: str) -> None:
    """The reference takes the mean along, a tied head apart from its embedding; in float64 nothing differs."""
    model, wanted = dense(name).double(), MagnitudeSettings(ratio=0.5)
    family = family_of(model.config)
    narrowed = METHOD.cut(wanted, family, model, {})
    narrow = AutoModelForCausalLM.from_config(narrowed.config, dtype=torch.float64).eval()
    narrow.load_state_dict(narrowed.weights, strict=False)
    METHOD.zero(wanted, family, model, {})
    assert apart(logits(narrow), logits(model)) < 1e-10


def test_one_order_serves_every_ratio() -> None:
    small, large = MagnitudeSettings(ratio=0.25), MagnitudeSettings(ratio=0.5)
    assert small.for_basis() == large.for_basis() and small.for_regularize() == large.for_regularize()
    assert small.for_prune() != large.for_prune()
    assert MagnitudeSettings(ratio=0.5, export="native").for_basis() != large.for_basis()


@pytest.mark.parametrize(
    ("changes", "field"), [({"ratio": 0.01}, "method.ratio"), ({"ratio": 0.25, "round_to": 3}, "method.round_to")]
)
def test_what_cannot_be_cut_is_refused_before_anything_is_loaded(changes: dict[str, Any], field: str) -> None:
    config = tiny_llama().config
    with pytest.raises(RecipeError) as refused:
        METHOD.check(MagnitudeSettings(**changes), family_of(config), config)
    assert refused.value.field == field
