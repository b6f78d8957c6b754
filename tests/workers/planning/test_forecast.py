"""Sizes and efforts told beforehand: the true parameter count, and arithmetic that grows as it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import changed
from tests.stored import SMALL_LLAMA, llama_shapes, write_model
from workers.contracts.recipe import Recipe
from workers.contracts.tasks import PAPER_METRICS
from workers.planning import forecast
from workers.planning.forecast import Size, effort_of, sizes_of
from workers.planning.plan import PlannedStage, Sources, stages_of
from workers.pruning import method
from workers.stages import prune

RECIPE = Recipe.model_validate({"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}})
SIZES = {"dense": Size(1000, 40), "pruned": Size(750, 30), "recovered": Size(750, 30)}
LENGTH = 16


def planned(recipe: Recipe, name: str) -> PlannedStage:
    """The first stage of this name."""
    return next(stage for stage in stages_of(recipe, Sources.unknown()) if stage.name == name)


def operations(recipe: Recipe, name: str, **measured_tokens: int) -> float:
    return effort_of(planned(recipe, name), recipe, SIZES, LENGTH, measured_tokens).operations


def test_the_constants_are_those_of_the_stages() -> None:
    assert forecast.CALIBRATION_SEQUENCES == method.CALIBRATION_SEQUENCES
    assert forecast.PROBE_TOKENS == prune.PROBE_TOKENS


def test_a_tied_head_is_counted_when_the_rotation_unties_it(tmp_path: Path) -> None:
    """The conformance suite compares with models that were cut; this is the sum by hand."""
    folder = write_model(tmp_path / "tied", {**SMALL_LLAMA, "tie_word_embeddings": True})
    dense = sizes_of(RECIPE, folder)["dense"].parameters
    head = SMALL_LLAMA["vocab_size"] * 48
    rotated = sizes_of(RECIPE, folder)["pruned"]
    plain = sizes_of(changed(RECIPE, method={"kind": "dress", "preset": "paper", "ratio": 0.25}), folder)["pruned"]
    assert rotated == Size(dense * 3 // 4 + head, 48)
    assert plain == Size(dense * 3 // 4, 48)


def test_a_tied_head_stored_twice_counts_once(tmp_path: Path) -> None:
    config = {**SMALL_LLAMA, "tie_word_embeddings": True}
    once = sizes_of(RECIPE, write_model(tmp_path / "once", config))
    assert sizes_of(RECIPE, write_model(tmp_path / "twice", config, llama_shapes(SMALL_LLAMA))) == once


def test_a_bare_decoder_and_the_dense_control(tmp_path: Path) -> None:
    shapes = {name.removeprefix("model."): shape for name, shape in llama_shapes(SMALL_LLAMA).items()}
    whole = sizes_of(RECIPE, write_model(tmp_path / "whole"))
    assert sizes_of(RECIPE, write_model(tmp_path / "bare", shapes=shapes)) == whole
    control = sizes_of(changed(RECIPE, method={"kind": "dense"}), tmp_path / "whole")
    assert control["pruned"] == control["recovered"] == whole["dense"]
    assert "recovered" not in sizes_of(changed(RECIPE, recover={"kind": "none"}), tmp_path / "whole")


def test_foreign_tensor_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="embed_tokens"):
        sizes_of(RECIPE, write_model(tmp_path / "foreign", shapes={"w": (2,)}))


def test_training_costs_what_the_rule_says() -> None:
    plain = changed(RECIPE, method__distillation=0.0, method__stream_distillation=0.0)
    tokens = 750 * LENGTH
    assert operations(plain, "regularize") == 6 * 1000 * tokens
    assert operations(RECIPE, "regularize") == (6 + 2) * 1000 * tokens
    assert operations(changed(RECIPE, method__distillation=0.0), "regularize") == (6 + 2) * 1000 * tokens
    assert operations(changed(plain, method__training__epochs=2), "regularize") == 2 * 6 * 1000 * tokens
    checkpointed = changed(plain, method__training__activation_checkpointing=True)
    assert operations(checkpointed, "regularize") == (6 + 2) * 1000 * tokens
    assert operations(RECIPE, "recover") == 4 * 750 * 250 * LENGTH
    assert operations(changed(RECIPE, recover={"kind": "full"}), "recover") == 6 * 750 * 250 * LENGTH
    assert operations(changed(plain, method__solver="none"), "regularize") == 0


def test_looking_costs_what_the_rule_says() -> None:
    assert operations(RECIPE, "evaluate", wikitext2=320, ptb=7) == 2 * 1000 * 320, "the recipe names no other text"
    assert operations(RECIPE, "evaluate") == 0
    both = changed(RECIPE, evaluate__perplexity=["wikitext2", "ptb"])
    assert operations(both, "evaluate", wikitext2=320, ptb=7) == 2 * 1000 * 327
    looked = 128 * LENGTH
    only_looks = changed(RECIPE, method__sensitivity=0.0, method__refinement=0.0)
    assert operations(only_looks, "covariance") == 2 * 1000 * looked
    assert operations(changed(only_looks, method__sensitivity=0.5), "covariance") == 6 * 1000 * looked
    assert operations(changed(only_looks, method__basis="channels"), "covariance") == 2 * 1000 * looked
    assert operations(only_looks, "basis") == 0
    assert operations(changed(only_looks, method__refinement=0.5), "basis") == 6 * 1000 * 375 * LENGTH


def test_a_benchmark_generates_and_reads_on_every_model() -> None:
    """Two passes more than are timed."""
    asked = {"batch_size": 3, "new_tokens": 5, "rounds": 7, "prompt_tokens": 11, "prompt_rounds": 13}
    tokens = 3 * 5 * (7 + 2) + 11 * (13 + 2)
    assert operations(changed(RECIPE, evaluate__speed=asked), "benchmark") == 2 * (1000 + 750 + 750) * tokens
    assert effort_of(PlannedStage("benchmark", None), RECIPE, SIZES, LENGTH, {}).operations == 0


def test_every_stage_moves_the_weights() -> None:
    timed = changed(RECIPE, evaluate__speed=True)
    for name in ("evaluate", "covariance", "basis", "regularize", "prune", "recover", "benchmark"):
        assert effort_of(planned(timed, name), timed, SIZES, LENGTH, {"wikitext2": 10}).moved_bytes >= 4 * 750


def test_tasks_cost_every_choice_of_every_row() -> None:
    def told(**changes: object) -> float:
        recipe = changed(RECIPE, evaluate__tasks=["winogrande"], evaluate__tasks_of=["pruned"], **changes)
        return effort_of(planned(recipe, "zero_shot"), recipe, SIZES, LENGTH, {}).operations

    assert told() == 2 * 750 * 1267 * 2 * 25
    assert told(evaluate__tasks_limit=10) == 2 * 750 * 10 * 2 * 25
    assert told(evaluate__tasks_limit=10, evaluate__tasks_num_fewshot=3) == 4 * told(evaluate__tasks_limit=10)
    assert set(forecast.TASK_SIZES) == set(PAPER_METRICS)


def test_only_the_parts_that_a_stage_names_are_counted() -> None:
    recipe = changed(RECIPE, evaluate__tasks=["winogrande", "piqa"], evaluate__perplexity=["wikitext2", "ptb"])
    tokens = {"wikitext2": 320, "ptb": 40}
    for name, part in (("evaluate", "ptb"), ("zero_shot", "piqa")):
        whole = planned(recipe, name)
        left = replace(whole, parts=tuple(each for each in whole.parts if each.name == part))
        rest = replace(whole, parts=tuple(each for each in whole.parts if each.name != part))
        told = [effort_of(each, recipe, SIZES, LENGTH, tokens).operations for each in (whole, left, rest)]
        assert told[0] == told[1] + told[2] and min(told) > 0
