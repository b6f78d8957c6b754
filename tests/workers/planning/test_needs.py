"""Memory told beforehand: what a peak is made of, what is refused, and settings that truly make it fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from tests.conftest import changed
from tests.stored import SMALL_LLAMA, write_model
from workers.contracts.recipe import Recipe
from workers.planning.needs import Stage, peak_bytes, refusal, relief, rules_for
from workers.planning.peaks import Rules

RECIPE = Recipe.model_validate(
    {
        "model": {"source": "some/model"},
        "method": {"kind": "dress", "ratio": 0.25},
        "data": {"samples": 64, "sequence_length": 128},
        "recover": {"kind": "full"},
    }
)
REGULARIZE: Stage = ("regularize", None)
RECOVER: Stage = ("recover", None)
DENSE: Stage = ("evaluate", "dense")
BENCHMARK: Stage = ("benchmark", None)
COVARIANCE: Stage = ("covariance", None)
BASIS: Stage = ("basis", None)
STAGES: list[Stage] = [DENSE, COVARIANCE, BASIS, REGULARIZE, ("prune", None), ("evaluate", "pruned"), RECOVER]
SAVING = {"activation_checkpointing": True, "loss_chunk_tokens": 64, "optimizer": "adamw_8bit", "weights": "bfloat16"}
SAVING |= {"step_in_backward": True, "clip_norm": None, "batch_size": 1}
TAUGHT_BY_NONE = {"method__distillation": 0.0, "method__stream_distillation": 0.0}


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    """Of a model whose parameters weigh as much as its activations."""
    config = {**SMALL_LLAMA, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 2000}
    return rules_for(RECIPE, write_model(tmp_path_factory.mktemp("models") / "model", config))


def peak(rules: Rules, stage: Stage = REGULARIZE, **changes: object) -> int:
    return peak_bytes(replace(rules, recipe=changed(rules.recipe, **changes)).items(stage))


def test_a_peak_is_made_of_what_training_holds(rules: Rules) -> None:
    parameters = rules.sizes["dense"].parameters
    items = rules.items(REGULARIZE)
    assert items["weights"] == items["teacher"] == 4 * parameters
    assert items["moments"] == 8 * parameters
    for alone in ("method__distillation", "method__stream_distillation"):
        assert replace(rules, recipe=changed(RECIPE, **{alone: 0.0})).items(REGULARIZE)["teacher"] == 4 * parameters
    assert "teacher" not in replace(rules, recipe=changed(RECIPE, **TAUGHT_BY_NONE)).items(REGULARIZE)
    on_gpu = replace(rules, recipe=changed(RECIPE, resources__gpus=1)).items(REGULARIZE)
    assert on_gpu["teacher"] == on_gpu["weights cast for the arithmetic"] == 2 * parameters
    assert on_gpu["activations"] * 2 == items["activations"], "half as many bytes an element"


@pytest.mark.parametrize(
    "changes",
    [
        {"method__training__activation_checkpointing": True},
        {"method__training__optimizer": "adamw_8bit"},
        {"method__training__weights": "bfloat16"},
        {"method__training__batch_size": 1},
        {"method__training__loss_chunk_tokens": 64},
        {"method__training__accumulation_steps": 2},
        TAUGHT_BY_NONE,
        {"method__solver": "none"},
        {"data__sequence_length": 64},
    ],
    ids=str,
)
def test_every_saving_saves(rules: Rules, changes: dict[str, object]) -> None:
    assert peak(rules, **changes) < peak(rules)


def test_gradients_count_where_they_are_more_than_what_goes_as_they_come(rules: Rules) -> None:
    """A step in backward saves them, and nothing where activations and logits are larger."""
    early = {"step_in_backward": True, "clip_norm": None}
    parameters = rules.sizes["dense"].parameters
    assert peak(rules, method__training=early) == peak(rules), "at 64 sequences of 128 tokens activations decide"
    lean = {"batch_size": 1, "loss_chunk_tokens": 16, "activation_checkpointing": True}
    items = replace(rules, recipe=changed(RECIPE, method__training=lean)).items(REGULARIZE)
    assert items["gradients"] + items["activations"] + items["logits"] == 4 * parameters
    assert peak(rules, method__training={**lean, **early}) < peak(rules, method__training=lean)
    summed = replace(rules, recipe=changed(RECIPE, method__training__accumulation_steps=2)).items(REGULARIZE)
    assert summed["gradients"] == 4 * parameters, "the first part's stay while the second is computed"


def test_a_heap_keeps_what_was_freed_on_a_cpu_alone(rules: Rules) -> None:
    kept = "heap"
    items = rules.items(REGULARIZE)
    assert items[kept] == (sum(items.values()) - items[kept]) // 2
    longer = changed(RECIPE, method__training__batch_size=4096)
    assert replace(rules, recipe=longer).items(REGULARIZE)[kept] == 200 * 2**20
    assert kept not in replace(rules, recipe=changed(RECIPE, resources__gpus=1)).items(REGULARIZE)


def test_stages_need_what_they_do(rules: Rules) -> None:
    assert peak(rules, ("evaluate", "pruned")) < peak(rules, DENSE)
    assert peak(rules, DENSE, evaluate__perplexity=[]) == 0, "measuring files loads no model"
    assert peak(rules, RECOVER, recover={"kind": "lora", "rank": 2}) < peak(rules, RECOVER)
    assert peak(rules, BASIS, method__refinement=0.0) < peak(rules, BASIS) < peak(rules, COVARIANCE)
    assert peak(rules, BASIS, method__training__batch_size=8) == peak(rules, COVARIANCE)
    regularize = rules.items(REGULARIZE)
    dense = replace(rules, recipe=changed(RECIPE, method={"kind": "dense"})).items(REGULARIZE)
    assert dense == {"weights": regularize["weights"]}


def test_a_benchmark_holds_every_model_and_the_larger_of_its_works(rules: Rules) -> None:
    every_model = sum(4 * size.parameters for size in rules.sizes.values())
    asked = {"batch_size": 64, "new_tokens": 100, "prompt_tokens": 4}
    timed = replace(rules, recipe=changed(RECIPE, evaluate__speed=asked))
    generating = timed.items(BENCHMARK)
    heads = SMALL_LLAMA["num_key_value_heads"] * (256 // SMALL_LLAMA["num_attention_heads"])
    assert generating["weights"] == every_model
    assert generating["cache"] == 4 * 64 * 101 * 2 * SMALL_LLAMA["num_hidden_layers"] * heads
    reading = replace(rules, recipe=changed(RECIPE, evaluate__speed={**asked, "batch_size": 1, "prompt_tokens": 64}))
    assert "cache" not in reading.items(BENCHMARK)
    assert reading.items(BENCHMARK)["logits"] == 4 * 64 * 2000
    assert peak(rules, BENCHMARK) == 0, "it is not asked for"


def test_a_benchmark_that_is_too_large_is_told_to_take_less(rules: Rules) -> None:
    timed = replace(rules, recipe=changed(RECIPE, evaluate__speed={"batch_size": 512, "new_tokens": 100}))
    whole_bytes = peak(timed, BENCHMARK)
    told = refusal(timed, [BENCHMARK], whole_bytes * 3 // 4) or ""
    advised = re.search(r"with evaluate.speed: (\{.*\}) it needs about", told)
    assert advised, told
    lighter = changed(RECIPE, evaluate__speed=yaml.safe_load(advised[1]))
    assert lighter.speed_form().new_tokens == 100 and lighter.speed_form().batch_size < 512
    assert refusal(replace(rules, recipe=lighter), [BENCHMARK], whole_bytes * 3 // 4) is None
    assert "with evaluate.speed: false it needs about" in (refusal(timed, [BENCHMARK], 1000) or "")


def test_what_fits_exactly_is_let_pass(rules: Rules) -> None:
    limit_bytes = max(peak(rules, stage) for stage in STAGES)
    assert refusal(rules, STAGES, limit_bytes) is None
    assert refusal(rules, STAGES, limit_bytes - 1) is not None
    assert refusal(rules, [], 0) is None, "nothing is to be computed"


def test_the_figures_and_the_largest_items_are_named(rules: Rules) -> None:
    message = refusal(rules, [REGULARIZE, ("prune", None)], 1_000_000) or ""
    assert re.match(r"the regularize stage needs about [0-9.]+ MiB \(\w+ [0-9.]+ MiB, \w+ [0-9.]+ MiB, ", message)
    assert "and the node has 1.0 MiB" in message and message.endswith("use a node with more memory")
    on_gpu = replace(rules, recipe=changed(RECIPE, resources__gpus=1))
    assert "the GPU has 1.0 MiB" in (refusal(on_gpu, STAGES, 1_000_000) or "")


@pytest.mark.parametrize("stage", [DENSE, BASIS, REGULARIZE, RECOVER], ids=str)
@pytest.mark.parametrize("fraction", [0.95, 0.8, 0.6])
def test_the_advice_makes_it_fit(rules: Rules, stage: Stage, fraction: float) -> None:
    limit_bytes = int(fraction * peak(rules, stage))
    message = refusal(rules, [stage], limit_bytes) or ""
    told = re.search(r"; with (.*) it needs about", message)
    assert told, message
    advised = yaml.safe_load("{" + told[1] + "}")
    lighter = changed(RECIPE, **{field.replace(".", "__"): value for field, value in advised.items()})
    assert refusal(replace(rules, recipe=lighter), [stage], limit_bytes) is None


def test_what_is_set_already_is_not_advised(rules: Rules) -> None:
    spare = replace(rules, recipe=changed(RECIPE, method__training=SAVING, **TAUGHT_BY_NONE))
    message = refusal(spare, [REGULARIZE], 1000) or ""
    assert message.endswith("; use a node with more memory"), message


@pytest.mark.parametrize(
    "changes", [{}, {"method__training__step_in_backward": True, "method__training__clip_norm": None}]
)
def test_each_relief_makes_a_recipe_that_says_something_new(changes: dict[str, object]) -> None:
    recipe = changed(RECIPE, **changes)
    told = re.fullmatch(
        r"any of these saves memory: (.*); or use a node with more memory .*", relief("regularize", recipe)
    )
    assert told
    items = [yaml.safe_load("{" + item.replace(" with ", ", ") + "}") for item in told[1].split(", ")]
    for item in items:
        assert changed(recipe, **{field.replace(".", "__"): value for field, value in item.items()}) != recipe
    both = {"method.training.step_in_backward": True, "method.training.clip_norm": None}
    assert (both in items) == (not changes)
    assert any("method.training.accumulation_steps" in item for item in items) == (not changes), (
        "they exclude each other"
    )


def test_tasks_need_a_batch_of_questions_and_advice_halves_it(rules: Rules) -> None:
    stage: Stage = ("zero_shot", "dense")
    asked = {"evaluate__tasks": ["piqa"], "evaluate__tasks_batch_size": 64}
    whole, half = (peak(rules, stage, **{**asked, "evaluate__tasks_batch_size": size}) for size in (64, 32))
    weights = rules.items(stage)["weights"]
    assert weights == 4 * rules.sizes["dense"].parameters and 2 * (half - weights) == whole - weights
    told = refusal(replace(rules, recipe=changed(rules.recipe, **asked)), [stage], half)
    assert told is not None and "the zero_shot dense stage" in told
    assert "evaluate.tasks_batch_size: 32" in told
