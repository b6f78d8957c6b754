"""LLM Surgeon takes the share it is asked for, the cheapest first, revives nothing, and resumes where it was."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from tests.conftest import changed, run_here, tiny_llama
from tests.workers.models.variants import VARIANTS, VOCABULARY
from workers.contracts.recipe import Recipe, Resources
from workers.contracts.rivals import LlmSurgeonSettings
from workers.errors import Diverged, RecipeError
from workers.local_store import LocalStore
from workers.models.family import family_of
from workers.pruning.kronecker import matrix_of
from workers.pruning.llm_surgeon import METHOD, Lines, cheapest, linear_layers
from workers.pruning.method import Regularization
from workers.training.checkpoints import TrainingCheckpoints
from workers.training.loop import Keeper, Step

SEQUENCES = torch.randint(VOCABULARY, (12, 16), generator=torch.Generator().manual_seed(5))
FAMILIES = ["llama-biases", "phi3", "gpt_neox", "opt", "gemma2", "olmo2", "phi"]


def wanted(**changes: Any) -> LlmSurgeonSettings:
    return LlmSurgeonSettings.model_validate({"ratio": 0.25, "shots": 4, "batch_size": 5, **changes})


def shots(
    model: PreTrainedModel, asked: LlmSurgeonSettings, keeper: Keeper | None = None, sequences: Tensor = SEQUENCES
) -> Iterator[Step]:
    task = Regularization(model, Path("none"), {}, sequences, 0, keeper, resumed=False)  # type: ignore[arg-type]
    return METHOD.regularize(asked, family_of(model.config), task)


def zeros(model: PreTrainedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer the rows and the columns that are zero throughout, the bias's column the last."""
    found = linear_layers(model, family_of(model.config)).items()
    return {name: (~matrix_of(layer).any(1), ~matrix_of(layer).any(0)) for name, layer in found}


def removed_fraction(model: PreTrainedModel) -> float:
    gone, elements = 0, 0
    for rows, columns in zeros(model).values():
        elements += len(rows) * len(columns)
        gone += int((rows[:, None] | columns).sum())
    return gone / elements


@pytest.mark.parametrize("joint", ["exact", "release"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_shot_takes_its_share_within_one_row_and_revives_nothing(name: str, joint: str) -> None:
    model = VARIANTS[name]()
    layers = linear_layers(model, family_of(model.config))
    head = model.get_output_embeddings()
    assert layers and head not in layers.values() and all(type(each) is torch.nn.Linear for each in layers.values())
    others = {key: value.clone() for key, value in model.named_parameters() if key.rpartition(".")[0] not in layers}
    sizes = [matrix_of(layer).shape for layer in layers.values()]
    one = max(max(size) for size in sizes) / sum(rows * columns for rows, columns in sizes)
    before = zeros(model)
    for step in shots(model, wanted(joint=joint)):
        after = zeros(model)
        assert step.metrics["removed_fraction"] == pytest.approx(removed_fraction(model), abs=1e-12)
        assert 0.25 * step.step / 4 - one < step.metrics["removed_fraction"] <= 0.25 * step.step / 4
        for layer in layers:
            for old, new in zip(before[layer], after[layer], strict=True):
                assert not (old & ~new).any()
        before = after
    assert step.step == step.steps == 4
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert all(torch.equal(model.get_parameter(key), value) for key, value in others.items())
    assert sum(int(rows.sum() + columns.sum()) for rows, columns in before.values()) > 4


def test_a_bias_goes_with_its_row() -> None:
    model = VARIANTS["opt"]()
    list(shots(model, wanted(ratio=0.5)))
    layers = linear_layers(model, family_of(model.config)).values()
    gone = [(layer.bias[~layer.weight.any(1)], layer.weight.any(1)) for layer in layers]
    assert sum(len(biases) for biases, _ in gone) > 0
    assert not any(biases.any() for biases, _ in gone)


def chain() -> Tensor:
    """Token ids [32, 24] in which each token tells much of the next: something that a model can learn."""
    random = torch.Generator().manual_seed(9)
    following = torch.softmax(3 * torch.randn(VOCABULARY, VOCABULARY, generator=random), -1)
    tokens = [torch.randint(VOCABULARY, (32,), generator=random)]
    for _ in range(23):
        tokens.append(torch.multinomial(following[tokens[-1]], 1, generator=random).flatten())
    return torch.stack(tokens, 1)


def test_the_loss_grows_less_than_by_zeroing_the_same_rows_and_columns() -> None:
    text, model = chain(), tiny_llama()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=text, labels=text).loss.backward()
        optimizer.step()
    dense = deepcopy(model)
    list(shots(model, wanted(), sequences=text))
    for name, (rows, columns) in zeros(model).items():
        dense.get_submodule(name).weight.data[rows] = 0
        dense.get_submodule(name).weight.data[:, columns] = 0
    losses = [each(input_ids=text, labels=text).loss.item() for each in (model, dense)]
    assert losses[0] < 0.95 * losses[1]


def naive(layers: list[Lines], share: float) -> list[set[int]]:
    """Row after column after row, cheapest first, each counted by hand, until the next would be too much."""
    whole = sum(each.elements for each in layers)
    left = [[len(each.row_prices), len(each.column_prices)] for each in layers]
    gone = [each.removed for each in layers]
    order = sorted(
        (float(price), number, place)
        for number, each in enumerate(layers)
        for place, price in enumerate(torch.cat([each.row_prices, each.column_prices]))
    )
    chosen: list[set[int]] = [set() for _ in layers]
    for _price, number, place in order:
        is_row = place < len(layers[number].row_prices)
        gain = left[number][1 if is_row else 0]
        if sum(gone) + gain > share * whole:
            break
        gone[number] += gain
        left[number][0 if is_row else 1] -= 1
        chosen[number].add(place)
    return chosen


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2)), min_size=1, max_size=3),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_the_cheapest_go_over_all_layers(sizes: list[tuple[int, int, int]], share: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    layers = [
        Lines(
            torch.ones(rows + dead, dtype=torch.bool).index_fill(0, torch.arange(dead), 0),
            torch.ones(columns, dtype=torch.bool),
            # few different prices, so that many are equal; those of a layer differ from those of the next
            torch.randint(3, (rows,), generator=random).double(),
            torch.randint(3, (columns,), generator=random).double(),
        )
        for rows, columns, dead in sizes
    ]
    chosen, threshold = cheapest(layers, share)
    places = [set(torch.cat([rows, columns]).nonzero().flatten().tolist()) for rows, columns in chosen]
    assert places == naive(layers, share)
    dearest = [
        float(torch.cat([each.row_prices, each.column_prices])[list(some)].max())
        for each, some in zip(layers, places, strict=True)
        if some
    ]
    assert threshold == max(dearest, default=0.0)


def keeper(folder: Path) -> TrainingCheckpoints:
    made = TrainingCheckpoints(
        LocalStore(folder / "store"), "ef" * 32, folder / "workspace", Resources(checkpoint_every_steps=1)
    )
    made.found()
    return made


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    undisturbed = tiny_llama()
    whole = list(shots(undisturbed, wanted()))
    begun = shots(tiny_llama(), wanted(), keeper(tmp_path))
    assert [next(begun).checkpointed for _ in range(2)] == [True, True]
    begun.close()  # type: ignore[attr-defined]
    resumed = tiny_llama()
    first, *rest = shots(resumed, wanted(), keeper(tmp_path))
    assert first.resumed and first.step == 2
    figures = [{k: v for k, v in step.metrics.items() if k != "seconds"} for step in whole]
    assert [point for _, point in first.earlier] == figures[:2]
    assert [{k: v for k, v in step.metrics.items() if k != "seconds"} for step in rest] == figures[2:]
    for one, other in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_published_number_of_shots() -> None:
    assert [LlmSurgeonSettings(ratio=ratio).shots_taken for ratio in (0.5, 0.25, 0.001)] == [40, 20, 1]


def test_a_ratio_below_one_row_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(RecipeError, match="less than one row or column of 16; ask for at least") as refused:
        next(shots(tiny_llama(), wanted(ratio=1e-4)))
    assert refused.value.field == "method.ratio"


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    model = tiny_llama()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(Diverged, match="before shot 1"):
        next(shots(model, wanted()))


def test_the_whole_job_keeps_shapes_and_zeros(recipe: Recipe, tmp_path: Path) -> None:
    asked = {"kind": "llm_surgeon", "ratio": 0.25, "shots": 2, "calibration_samples": 8}
    results = run_here(changed(recipe, method=asked, evaluate__speed=False), tmp_path)
    dense, pruned, recovered = results.dense, results.pruned, results.recovered
    assert dense and pruned and recovered
    assert dense.parameters == pruned.parameters == recovered.parameters
    assert dense.nonzero_parameters is None and pruned.nonzero_parameters is not None
    model = tiny_llama()
    elements = sum(layer.weight.numel() for layer in linear_layers(model, family_of(model.config)).values())
    assert pruned.nonzero_parameters == pytest.approx(dense.parameters - 0.25 * elements, abs=50)
    assert recovered.nonzero_parameters == pruned.nonzero_parameters
    assert recovered.weights_digest != pruned.weights_digest
