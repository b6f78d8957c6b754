"""Recipes: what is accepted as it stands, what a preset means, and what is refused with the field's name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from workers.contracts import recipe as contract
from workers.contracts.base import field_path
from workers.contracts.methods import PRESETS, DressSettings
from workers.contracts.recipe import DataSettings, Recipe, parse_yaml

AS_DOCUMENTED = """
model: {source: owner/name}
method: {kind: dress, preset: recommended, ratio: 0.25}
data: {name: wikitext2, samples: 1000, sequence_length: 2048, split: "3:1"}
recover: {kind: lora, rank: 8}
evaluate: {perplexity: [wikitext2], tasks: [], speed: false}
resources: {gpus: 0, cpus: 1}
seed: 0
"""


def with_changes(**sections: Any) -> dict[str, Any]:
    plain: dict[str, Any] = parse_yaml(AS_DOCUMENTED)
    return plain | sections


def test_the_documented_form_is_accepted_and_survives_json() -> None:
    recipe = Recipe.model_validate(parse_yaml(AS_DOCUMENTED))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert (recipe.data.regularize_samples, recipe.data.recover_samples) == (750, 250)


def test_a_preset_fills_in_and_is_overruled() -> None:
    paper = DressSettings.model_validate({"preset": "paper", "ratio": 0.25, "solver": "anneal"})
    assert (paper.basis, paper.solver, paper.channels) == ("channels", "anneal", "last")
    assert DressSettings.model_validate({"ratio": 0.25}).basis == "auto"
    assert set(PRESETS) == {"recommended", "paper"}


def test_numbers_may_be_written_without_a_point() -> None:
    assert parse_yaml("strength: 1e-3") == {"strength": 1e-3}


@pytest.mark.parametrize(
    ("sections", "field", "words"),
    [
        ({"surprise": 1}, "surprise", "Extra inputs"),
        ({"model": {}}, "model.source", "required"),
        ({"method": {"kind": "dress", "ratio": 0.0}}, "method.ratio", "greater than 0"),
        ({"method": {"kind": "dress", "ratio": 1.0}}, "method.ratio", "less than or equal to 0.9"),
        ({"method": {"kind": "dress", "ratio": "0.25"}}, "method.ratio", "valid number"),
        ({"method": {"kind": "magic", "ratio": 0.25}}, "method", "'dress'"),
        ({"data": {"name": "text"}}, "data", "the path of a file or the id of an uploaded dataset"),
        ({"data": {"name": "ptb", "path": "/a"}}, "data", "only the name `text`"),
        ({"data": {"name": "ptb", "dataset": "dataset_1"}}, "data", "only the name `text`"),
        ({"data": {"name": "text", "path": "/a", "dataset": "dataset_1"}}, "data", "one of the two"),
        ({"data": {"name": "text", "dataset": "1"}}, "data.dataset", "match pattern"),
        ({"data": {"name": "text", "path": "/a", "dataset_sha256": "0" * 64}}, "data", "belongs to a dataset"),
        ({"data": {"split": "0:1"}}, "", "data.split leaves the regularize stage no sample"),
        ({"data": {"split": "0:0"}}, "data", "split: 0:0"),
        ({"data": {"sampling": "twice"}}, "data.sampling", "'overlapping'"),
        ({"data": {"split": "1:0"}}, "", "recover.kind to none"),
        ({"recover": {"kind": "prayer"}}, "recover", "'lora'"),
        ({"evaluate": {"perplexity": ["ptb", "ptb"]}}, "evaluate.perplexity", "label"),
        ({"evaluate": {"tasks": ["/etc/task.yaml"]}}, "evaluate.tasks.0.name", "should match pattern"),
        ({"resources": {"gpus": 2}}, "resources.gpus", "one GPU"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
    ],
)
def test_faults_are_named(sections: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate(with_changes(**sections))
    (fault,) = refused.value.errors()
    assert field_path(with_changes(**sections), fault["loc"]) == field
    assert words in fault["msg"]


@given(samples=st.integers(2, 100_000), first=st.integers(1, 100), second=st.integers(0, 100))
def test_the_split_shares_out_every_sample(samples: int, first: int, second: int) -> None:
    try:
        settings = DataSettings(samples=samples, split=f"{first}:{second}")
    except ValidationError:
        assert round(samples * first / (first + second)) == 0
        return
    assert settings.regularize_samples + settings.recover_samples == samples
    assert abs(settings.regularize_samples - samples * first / (first + second)) <= 0.5


def test_all_samples_may_go_to_one_stage_if_the_other_trains_nothing() -> None:
    after = Recipe.model_validate(
        with_changes(method={"kind": "dress", "ratio": 0.25, "solver": "none"}, data={"split": "0:1"})
    )
    assert (after.data.regularize_samples, after.data.recover_samples) == (0, 1000)
    dense = Recipe.model_validate(with_changes(method={"kind": "dense"}, data={"split": "0:1"}))
    assert not dense.method.trains
    before = Recipe.model_validate(with_changes(recover={"kind": "none"}, data={"split": "1:0"}))
    assert (before.data.regularize_samples, before.data.recover_samples) == (1000, 0)


@given(length=st.none() | st.integers(8, 4096), context=st.none() | st.integers(8, 1_048_576))
def test_a_length_left_out_suits_the_model(length: int | None, context: int | None) -> None:
    resolved = DataSettings(sequence_length=length).resolved_sequence_length(context)
    if length is not None:
        assert resolved == length
    else:
        assert resolved == (2048 if context is None or context > 2048 else context)


def test_every_field_says_what_it_means() -> None:
    silent = [
        f"{name}.{field}"
        for name, kind in vars(contract).items()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for field, about in kind.model_fields.items()
        if not about.description
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("solver", "field", "value", "decides"),
    [
        ("anneal", "strength", 0.5, False),
        ("anneal", "norm", "l1", False),
        ("anneal", "regularized", "all", False),
        ("anneal", "anneal_fraction", 0.7, True),
        ("penalty", "strength", 0.5, True),
        ("penalty", "norm", "l1", True),
        ("penalty", "regularized", "all", True),
        ("penalty", "anneal_fraction", 0.7, False),
        ("proximal", "strength", 0.5, True),
        ("elastic", "strength", 0.5, False),
        ("none", "strength", 0.5, False),
    ],
)
def test_what_a_solver_does_not_heed_decides_nothing(solver: str, field: str, value: Any, decides: bool) -> None:
    """So that trials of a search which differ in nothing that counts share their result."""
    plain = {"kind": "dress", "ratio": 0.2, "solver": solver}
    one, other = (DressSettings.model_validate(each).for_regularize() for each in (plain, {**plain, field: value}))
    assert (one != other) is decides
