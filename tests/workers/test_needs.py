"""Memory told beforehand: what a peak is made of, what is refused, and settings that truly make it fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from tests.conftest import changed
from tests.stored import SMALL_LLAMA, write_model
from workers.contracts.recipe import Recipe
from workers.needs import Stage, peak_bytes, refusal, rules_for
from workers.peaks import Rules

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
STAGES: list[Stage] = [DENSE, ("basis", None), REGULARIZE, ("prune", None), ("evaluate", "pruned"), RECOVER]
SAVING = {"activation_checkpointing": True, "loss_chunk_tokens": 64, "optimizer": "adamw_8bit", "weights": "bfloat16"}
SAVING |= {"step_in_backward": True, "clip_norm": None, "batch_size": 1}


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
    assert items["weights"] == items["gradients"] == items["teacher"] == 4 * parameters
    assert items["moments"] == 8 * parameters
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
        {"method__training": {"step_in_backward": True, "clip_norm": None}},
        {"method__distillation": 0.0},
        {"method__solver": "none"},
        {"data__sequence_length": 64},
    ],
    ids=str,
)
def test_every_saving_saves(rules: Rules, changes: dict[str, object]) -> None:
    assert peak(rules, **changes) < peak(rules)


def test_stages_need_what_they_do(rules: Rules) -> None:
    assert peak(rules, ("evaluate", "pruned")) < peak(rules, DENSE)
    assert peak(rules, DENSE, evaluate__perplexity=[]) == 0, "measuring files loads no model"
    assert peak(rules, RECOVER, recover={"kind": "lora", "rank": 2}) < peak(rules, RECOVER)
    every_model = sum(4 * size.parameters for size in rules.sizes.values())
    assert peak(rules, ("benchmark", None)) == every_model
    regularize = rules.items(REGULARIZE)
    dense = replace(rules, recipe=changed(RECIPE, method={"kind": "dense"})).items(REGULARIZE)
    assert dense == {"weights": regularize["weights"]}


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


@pytest.mark.parametrize("stage", [DENSE, REGULARIZE, RECOVER], ids=str)
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
    spare = replace(rules, recipe=changed(RECIPE, method__training=SAVING, method__distillation=0.0))
    message = refusal(spare, [REGULARIZE], 1000) or ""
    assert message.endswith("; use a node with more memory"), message
