"""Families as a list: menu and folder agree, defaults are those of transformers, what no slot describes is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

import workers.models
from tests.workers.models.variants import VARIANTS, tiny
from workers.contracts.methods import DressSettings
from workers.contracts.recipe import FAMILIES
from workers.errors import RecipeError
from workers.models.family import blocks, family_named, family_of, head_dim_of, is_tied, renamed_without, without_blocks
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


@pytest.mark.parametrize("name", VARIANTS)
def test_the_blocks_are_those_of_the_model(name: str) -> None:
    model = VARIANTS[name](num_hidden_layers=3)
    family = family_of(model.config)
    listed = list(model.get_submodule(family.block_list))
    assert [model.get_submodule(block) for block in blocks(family, model.config)] == listed
    of_blocks = [name for name, _ in model.named_parameters() if name.startswith(f"{family.block_list}.")]
    assert len(of_blocks) == sum(len(list(block.parameters())) for block in listed)


@pytest.mark.parametrize("name", ["qwen2-tied", "gemma2", "llama"])
def test_a_config_without_blocks_lists_the_kinds_of_those_that_stay(name: str) -> None:
    config = VARIANTS[name](num_hidden_layers=6).config
    fewer = without_blocks(config, {1, 4})
    assert (config.num_hidden_layers, fewer.num_hidden_layers) == (6, 4)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        assert len(set(kinds)) == 2, "else nothing would show"
        assert fewer.layer_types == [kinds[place] for place in (0, 2, 3, 5)]
    else:
        assert name == "llama"


def test_the_blocks_with_a_window_are_still_those_behind_the_same_block() -> None:
    config = SimpleNamespace(num_hidden_layers=6, max_window_layers=3)
    assert without_blocks(config, [1, 4]).max_window_layers == 2
    assert without_blocks(SimpleNamespace(num_hidden_layers=6, max_window_layers=28), [1, 4]).max_window_layers == 26


def test_what_stays_moves_up() -> None:
    family = family_named("opt")
    names = [f"model.decoder.layers.{number}.fc1.weight" for number in (0, 1, 2, 5, 11)]
    wanted = ["0", None, "1", None, "9"]
    renamed = [renamed_without(family, name, {1, 5}) for name in names]
    assert renamed == [place and f"model.decoder.layers.{place}.fc1.weight" for place in wanted]
    assert renamed_without(family, "model.decoder.embed_tokens.weight", {1}) == "model.decoder.embed_tokens.weight"
