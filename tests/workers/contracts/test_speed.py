"""What a recipe may ask of the benchmark, and what it becomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.conftest import changed
from workers.contracts.recipe import Recipe
from workers.contracts.speed import ON_CPU, ON_GPU, SpeedSettings

RECIPE = Recipe.model_validate({"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}})


def test_true_and_an_empty_object_ask_for_the_same() -> None:
    assert RECIPE.speed_form() is None and RECIPE.evaluate.speed_settings is None
    assert changed(RECIPE, evaluate__speed=True).speed_form() == ON_CPU
    assert changed(RECIPE, evaluate__speed={}).speed_form() == ON_CPU
    assert changed(RECIPE, evaluate__speed=True, resources__gpus=1).speed_form() == ON_GPU


def test_the_protocol_of_the_paper_is_what_a_gpu_measures() -> None:
    assert (ON_GPU.batch_size, ON_GPU.new_tokens, ON_GPU.rounds) == (64, 128, 10)
    assert (ON_GPU.prompt_tokens, ON_GPU.prompt_rounds) == (2048, 50)


@pytest.mark.parametrize("asked", [{"batch_size": 0}, {"rounds": 0}, {"tokens": 5}, {"new_tokens": 1.5}, "yes", 1])
def test_what_makes_no_sense_is_refused(asked: object) -> None:
    with pytest.raises(ValidationError, match="speed"):
        changed(RECIPE, evaluate__speed=asked)


@given(st.booleans(), st.integers(2, 4096))
def test_what_is_left_out_fits_every_context(on_gpu: bool, context: int) -> None:
    form = SpeedSettings().form(on_gpu, context)
    suited = ON_GPU if on_gpu else ON_CPU
    assert form.prompt_tokens == min(suited.prompt_tokens, context)
    assert form.new_tokens == min(suited.new_tokens, context - 1)
    assert form.batch_size == suited.batch_size


@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 256))
def test_what_is_asked_stands_or_is_told_to_be_too_long(new: int, prompt: int, context: int) -> None:
    settings = SpeedSettings(new_tokens=new, prompt_tokens=prompt, rounds=3)
    form = settings.form(False, context)
    assert (form.new_tokens, form.prompt_tokens, form.rounds) == (new, prompt, 3)
    fault = settings.too_long(context)
    assert (fault is None) == (new + 1 <= context and prompt <= context)
    if fault:
        field, asked, most = fault
        assert getattr(settings, field.rpartition(".")[2]) == asked > most
        assert settings.model_copy(update={"new_tokens": 1, "prompt_tokens": most}).too_long(context) is None
