"""SLEB removes what an exhaustive greedy search removes, by a cheaper way, and can be interrupted anywhere."""

from __future__ import annotations

from collections.abc import Generator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from tests.workers.models.trials import NoKeeper, result_of
from tests.workers.models.variants import VARIANTS
from workers.contracts.recipe import Resources
from workers.contracts.rivals import SlebSettings
from workers.errors import Diverged, RecipeError
from workers.local_store import LocalStore
from workers.models.family import blocks, family_of
from workers.pruning.method import Preparation
from workers.pruning.sleb import METHOD
from workers.training.checkpoints import TrainingCheckpoints
from workers.training.loop import Step

BLOCKS = 6
TEXT = torch.randint(67, (7, 12), generator=torch.Generator().manual_seed(3))


def settings(ratio: float = 0.5, **changes: Any) -> SlebSettings:
    return SlebSettings(ratio=ratio, **{"batch_size": 3, **changes})


@pytest.fixture(scope="module")
def trained() -> PreTrainedModel:
    """A Llama of six blocks after a few steps on the text, so that its blocks are no longer alike."""
    model = tiny_llama(num_hidden_layers=BLOCKS, vocab_size=67).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        model(input_ids=TEXT, labels=TEXT, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def steps_of(
    model: PreTrainedModel, wanted: SlebSettings, keeper: Any = None
) -> Generator[Step, None, dict[str, Tensor]]:
    task = Preparation(model, TEXT, 0, keeper or NoKeeper())
    return METHOD.prepare(wanted, family_of(model.config), task)


def without(model: PreTrainedModel, removed: list[int]) -> PreTrainedModel:
    """A copy from which the blocks are silenced by hand: a block is its residual branches."""
    model = deepcopy(model)
    names = blocks(family_of(model.config), model.config)

    class Skipped(nn.Module):
        def forward(self, stream: Tensor, *_places: object, **_named: object) -> Tensor:
            return stream

    for number in removed:
        parent, _, place = names[number].rpartition(".")
        model.get_submodule(parent)[int(place)] = Skipped()
    return model


@torch.no_grad()
def loss_of(model: PreTrainedModel, text: Tensor) -> float:
    logits = model(input_ids=text, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten()).item()


def exhaustive(model: PreTrainedModel, count: int, text: Tensor) -> tuple[list[int], list[dict[int, float]]]:
    """The order of removal, and every loss looked at, with whole passes and nothing reused."""
    removed: list[int] = []
    looked = []
    for _ in range(count):
        candidates = [number for number in range(1, model.config.num_hidden_layers - 1) if number not in removed]
        losses = {number: loss_of(without(model, [*removed, number]), text) for number in candidates}
        removed.append(min(losses, key=lambda number: losses[number]))
        looked.append(losses)
    return removed, looked


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen2-tied", "olmo2", "phi", "opt", "gpt_neox-in-turn"])
def test_the_order_is_that_of_exhaustive_greedy_search(name: str) -> None:
    model = VARIANTS[name](num_hidden_layers=BLOCKS)
    before = deepcopy(model.state_dict())
    found = result_of(steps_of(model, settings()))
    order, looked = exhaustive(model, 3, TEXT)
    assert found["removed"].tolist() == order
    for row, losses in zip(found["losses"], looked, strict=True):
        assert {number for number in range(BLOCKS) if row[number].isfinite()} == set(losses)
        assert all(row[number].item() == pytest.approx(loss, rel=1e-5) for number, loss in losses.items())
    assert all(torch.equal(weight, before[each]) for each, weight in model.state_dict().items())


def test_on_a_trained_model_too(trained: PreTrainedModel) -> None:
    found = result_of(steps_of(trained, settings(2 / 3)))
    order, looked = exhaustive(trained, 4, TEXT)
    assert found["removed"].tolist() == order and sorted(order) == [1, 2, 3, 4]
    assert max(looked[0].values()) > 1.01 * min(looked[0].values()), "the choice should not hang on rounding"


def test_one_block_is_the_best_of_all_and_the_first_of_more(trained: PreTrainedModel) -> None:
    one = result_of(steps_of(trained, settings(1 / BLOCKS)))
    losses = exhaustive(trained, 1, TEXT)[1][0]
    assert one["removed"].tolist() == [min(losses, key=lambda number: losses[number])]
    assert result_of(steps_of(trained, settings(0.5)))["removed"][0] == one["removed"][0]


def test_calibration_takes_as_many_sequences_as_it_says(trained: PreTrainedModel) -> None:
    found = result_of(steps_of(trained, settings(1 / BLOCKS, calibration_samples=4)))
    losses = exhaustive(trained, 1, TEXT[:4])[1][0]
    assert found["losses"][0, 1].item() == pytest.approx(losses[1], rel=1e-5)
    whole = exhaustive(trained, 1, TEXT)[1][0]
    assert found["losses"][0, 1].item() != pytest.approx(whole[1], rel=1e-5)


def test_batches_change_no_loss_but_by_rounding(trained: PreTrainedModel) -> None:
    found = [result_of(steps_of(trained, settings(batch_size=size)))["losses"] for size in (1, 3, 7)]
    for other in found[1:]:
        assert torch.allclose(other, found[0], rtol=1e-5)


def test_the_cost_is_what_is_said(trained: PreTrainedModel) -> None:
    """(m - 2)(m + 1)/2 blocks a batch and removal."""
    runs = []
    family = family_of(trained.config)
    hooks = [
        trained.get_submodule(name).register_forward_hook(lambda *_: runs.append(1))
        for name in blocks(family, trained.config)
    ]
    result_of(steps_of(trained, settings(1 / 3, batch_size=7)))
    for hook in hooks:
        hook.remove()
    assert len(runs) == sum((alive - 2) * (alive + 1) // 2 for alive in (BLOCKS, BLOCKS - 1))


def test_progress_tells_each_removal(trained: PreTrainedModel) -> None:
    steps, run = [], steps_of(trained, settings())
    while True:
        try:
            steps.append(next(run))
        except StopIteration as done:
            found = done.value
            break
    assert [step.step for step in steps] == list(range(1, 10)) and {step.steps for step in steps} == {9}
    told = [step.metrics["removed_block"] for step in steps if "removed_block" in step.metrics]
    assert told == found["removed"].tolist()
    last = [step.metrics["loss"] for step in steps[2::3]]
    assert last == pytest.approx(found["losses"].amin(1).tolist())


@pytest.mark.parametrize("stopped_after", range(1, 9))
def test_an_interrupted_search_goes_on_to_the_same_bits(
    stopped_after: int, trained: PreTrainedModel, tmp_path: Path
) -> None:
    def keeper() -> TrainingCheckpoints:
        resources = Resources(checkpoint_every_steps=1)
        return TrainingCheckpoints(LocalStore(tmp_path / "store"), "0" * 64, tmp_path / "work", resources)

    whole = result_of(steps_of(trained, settings()))
    first = keeper()
    assert first.found() is None
    run = steps_of(trained, settings(), first)
    for _ in range(stopped_after):
        assert next(run).checkpointed
    run.close()
    second = keeper()
    assert second.found() == stopped_after
    run = steps_of(trained, settings(), second)
    resumed = next(run)
    assert resumed.resumed and resumed.step == stopped_after
    found = result_of(run)
    assert torch.equal(found["removed"], whole["removed"]) and torch.equal(found["losses"], whole["losses"])


def test_the_blocks_are_back_after_an_interruption(trained: PreTrainedModel) -> None:
    before = loss_of(trained, TEXT)
    run = steps_of(trained, settings())
    next(run)
    run.close()
    assert loss_of(trained, TEXT) == before


def test_a_model_without_numbers_is_told() -> None:
    model = tiny_llama(num_hidden_layers=4, vocab_size=67)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(Diverged, match="no finite number"):
        result_of(steps_of(model, settings()))


@pytest.mark.parametrize(
    ("layers", "ratio", "field", "words"),
    [
        (2, 0.5, "method.kind", "2 blocks"),
        (6, 0.05, "method.ratio", "rounds to 0 removed; choose a ratio between 0.167 and 0.667"),
        (6, 0.9, "method.ratio", "rounds to 5 removed"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(
    layers: int, ratio: float, field: str, words: str
) -> None:
    config = tiny_llama(num_hidden_layers=layers).config
    with pytest.raises(RecipeError, match=words) as refused:
        METHOD.check(settings(ratio), family_of(config), config)
    assert refused.value.field == field
