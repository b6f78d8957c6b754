"""Random cuts channels that the seed alone decides."""

from __future__ import annotations

import torch

from tests.workers.models.trials import SEQUENCES, NoKeeper, apart, dense, logits, result_of
from workers.contracts.rivals import RandomSettings
from workers.models.family import family_of
from workers.pruning.method import Preparation, Regularization
from workers.pruning.random import METHOD

WANTED = RandomSettings(ratio=0.5)


def order(name: str, seed: int) -> torch.Tensor:
    model = dense(name)
    task = Preparation(model, SEQUENCES, seed, NoKeeper())
    found = result_of(METHOD.prepare(WANTED, family_of(model.config), task))
    assert set(found) == {"order"}
    return found["order"]


def test_the_seed_alone_decides() -> None:
    first = order("llama", 3)
    assert torch.equal(first, order("llama", 3)) and torch.equal(first, order("opt", 3)), "both are 24 wide"
    assert sorted(first.tolist()) == list(range(24)) != first.tolist()
    assert not torch.equal(first, order("llama", 4))


def test_the_order_changes_no_logit_and_stands_in_the_model(tmp_path) -> None:
    model = dense("llama")
    before, embedding = logits(model), model.get_input_embeddings().weight.detach().clone()
    drawn = order("llama", 3)
    task = Regularization(model, tmp_path, {"order": drawn}, SEQUENCES, 3, NoKeeper(), resumed=False)
    assert list(METHOD.regularize(WANTED, family_of(model.config), task)) == []
    assert apart(logits(model), before) < 1e-4
    assert torch.equal(model.get_input_embeddings().weight, embedding[:, drawn])
