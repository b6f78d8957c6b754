"""Families as a list: menu and folder agree, defaults are those of transformers, what no slot describes is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

import workers.models
from tests.workers.models.variants import tiny
from workers.contracts.methods import DressSettings
from workers.contracts.recipe import FAMILIES
from workers.errors import RecipeError
from workers.models.family import family_named, family_of, head_dim_of, is_tied
from workers.models.width import width_of

FOLDER = Path(next(iter(workers.models.__path__)))
DIMENSIONS = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""What every config.json states."""

by_family = pytest.mark.parametrize("name", FAMILIES)


def test_menu_and_folder_agree() -> None:
    files = {file.stem for file in FOLDER.glob("*.py") if "\nFAMILY = " in file.read_text("utf-8")}
    assert files == set(FAMILIES)


@by_family
def test_a_family_answers_to_its_files_name(name: str) -> None:
    assert family_named(name).model_type == name == AutoConfig.for_model(name).model_type


@by_family
def test_defaults_are_those_of_transformers(name: str) -> None:
    config = AutoConfig.for_model(name)
    for field, value in family_named(name).defaults.items():
        assert getattr(config, field) == value, field


@by_family
def test_a_config_that_leaves_its_defaults_out_says_the_same(name: str) -> None:
    """Files on the hub were written by many versions, and many leave out what the class says anyway."""
    config = AutoConfig.for_model(name)
    family = family_of(config)
    stated = {field: getattr(config, field) for field in DIMENSIONS}
    bare = SimpleNamespace(**{**family.defaults, **stated})
    family.check(bare)
    assert family.slots(bare) == family.slots(config)
    assert family.sites(bare) == family.sites(config)
    assert family.head_slots(bare) == family.head_slots(config)
    assert family.width_multiple(bare) == family.width_multiple(config)
    assert family.narrow_type(bare) == family.narrow_type(config)
    assert (head_dim_of(bare), is_tied(bare)) == (head_dim_of(config), is_tied(config))


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral", "mamba", "", None, "../llama", "decoder", "family"])
def test_an_unknown_architecture_is_refused_by_name(architecture: str | None) -> None:
    with pytest.raises(RecipeError, match="is not supported") as refused:
        family_of(SimpleNamespace(model_type=architecture))
    assert refused.value.field == "model.source"
    assert all(name in str(refused.value) for name in FAMILIES)


@by_family
def test_quantized_weights_are_refused(name: str) -> None:
    config = AutoConfig.for_model(name)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(RecipeError, match="quantized") as refused:
        family_of(config)
    assert refused.value.field == "model.source"


def test_long_context_factors_need_a_modelling_file_in_either_spelling() -> None:
    family = family_named("phi3")
    scaling = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
    assert family.narrow_type(SimpleNamespace(rope_scaling=scaling)) == "narrow_phi3"
    assert family.narrow_type(SimpleNamespace(rope_parameters=scaling)) == "narrow_phi3"
    assert family.narrow_type(SimpleNamespace(rope_scaling=None)) is None


def test_heads_that_share_a_matrix_are_not_dropped() -> None:
    long_context = {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [2.0] * 3}
    config = tiny("phi3", rope_parameters={**long_context, "original_max_position_embeddings": 16}).config
    settings = DressSettings.model_validate({"ratio": 0.25, "export": "native"})
    with pytest.raises(RecipeError) as refused:
        width_of(settings, family_of(config), config)
    assert refused.value.field == "method.export"
