"""What the rivals' stages will take: operations that follow their settings, and memory that fits the advice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import changed
from tests.stored import SMALL_LLAMA, write_model
from workers.contracts.recipe import Recipe
from workers.planning.forecast import Size, effort_of
from workers.planning.needs import Stage, peak_bytes, refusal, rules_for
from workers.planning.peaks import Rules
from workers.planning.plan import PlannedStage

RECIPE = Recipe.model_validate(
    {
        "model": {"source": "some/model"},
        "method": {"kind": "dress", "ratio": 0.25},
        "data": {"samples": 400, "sequence_length": 128},
    }
)
LENGTH = 16
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"kind": "magnitude", "ratio": 0.25},
    "random": {"kind": "random", "ratio": 0.25},
    "sleb": {"kind": "sleb", "ratio": 0.25},
    "slicegpt": {"kind": "slicegpt", "ratio": 0.25},
    "llm_surgeon": {"kind": "llm_surgeon", "ratio": 0.25},
}
BASIS: Stage = ("basis", None)
REGULARIZE: Stage = ("regularize", None)


def operations(name: str, sizes: dict[Any, Size], **method: Any) -> float:
    recipe = changed(RECIPE, method=method)
    return effort_of(PlannedStage(name, None), recipe, sizes, LENGTH, {}).operations


def test_the_search_for_blocks_costs_its_runs() -> None:
    """Eight blocks of 12·d², of which two go: among 8 and then 7, (m - 2)(m + 1)/2 blocks and m - 2 heads a token."""
    width, rest = 10, 5000
    sizes = {"dense": Size(8 * 12 * width**2 + rest, width), "pruned": Size(6 * 12 * width**2 + rest, width)}
    passed = (27 + 20) * 12 * width**2 + (6 + 5) * rest
    assert operations("basis", sizes, **METHODS["sleb"]) == 2 * passed * 128 * LENGTH
    assert operations("basis", sizes, **METHODS["sleb"], calibration_samples=64) == 2 * passed * 64 * LENGTH
    assert operations("basis", sizes, **METHODS["sleb"], calibration_samples=9999) == 2 * passed * 300 * LENGTH


def test_curvature_costs_its_shots() -> None:
    sizes = {"dense": Size(1000, 10), "pruned": Size(1000, 10)}
    once = operations("regularize", sizes, **METHODS["llm_surgeon"], shots=1)
    assert once > (2 + 2) * 1000 * 128 * LENGTH, "a pass there and back without the weights' gradients, and the factors"
    assert operations("regularize", sizes, **METHODS["llm_surgeon"]) == 20 * once
    assert operations("basis", sizes, **METHODS["llm_surgeon"]) == 0


def test_slicing_costs_two_passes_and_its_axes() -> None:
    sizes = {"dense": Size(12_000, 10), "pruned": Size(9_000, 8)}
    few, many = (
        operations("basis", sizes, **METHODS["slicegpt"], calibration_samples=samples) for samples in (64, 128)
    )
    assert 2 * 2 * 12_000 * 64 * LENGTH < few < many < 2 * few
    wide = {"dense": Size(12_000, 100), "pruned": Size(9_000, 80)}
    assert operations("basis", wide, **METHODS["slicegpt"]) > many


@pytest.mark.parametrize("kind", ["magnitude", "random"])
def test_what_trains_nothing_costs_nothing_but_bytes(kind: str) -> None:
    sizes = {"dense": Size(1000, 10), "pruned": Size(900, 8)}
    for name in ("basis", "regularize"):
        effort = effort_of(PlannedStage(name, None), changed(RECIPE, method=METHODS[kind]), sizes, LENGTH, {})
        assert effort.operations == 0 and effort.moved_bytes >= 4 * 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose logits, activations and parameters weigh about the same."""
    config = {**SMALL_LLAMA, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 2000, "num_hidden_layers": 8}
    return write_model(tmp_path_factory.mktemp("models") / "model", config)


def rules(folder: Path, kind: str, **changes: Any) -> Rules:
    return rules_for(changed(RECIPE, method={**METHODS[kind], **changes}), folder)


@pytest.mark.parametrize("kind", METHODS)
def test_every_stage_holds_the_model(kind: str, folder: Path) -> None:
    found = rules(folder, kind)
    for stage in (BASIS, REGULARIZE, ("prune", None)):
        assert peak_bytes(found.items(stage)) >= 4 * found.sizes["dense"].parameters


@pytest.mark.parametrize(("kind", "stage"), [("sleb", BASIS), ("slicegpt", BASIS), ("llm_surgeon", REGULARIZE)])
@pytest.mark.parametrize("fraction", [0.95, 0.8])
def test_the_advice_makes_it_fit(kind: str, stage: Stage, fraction: float, folder: Path) -> None:
    found = rules(folder, kind, calibration_samples=8)
    limit_bytes = int(fraction * peak_bytes(found.items(stage)))
    told = re.search(r"; with (.*) it needs about", refusal(found, [stage], limit_bytes) or "")
    assert told and "method.batch_size" in told[1]
    advised = {field.replace(".", "__"): value for field, value in yaml.safe_load("{" + told[1] + "}").items()}
    assert refusal(replace(found, recipe=changed(found.recipe, **advised)), [stage], limit_bytes) is None


def test_memory_is_made_of_what_is_held(folder: Path) -> None:
    dense = rules(folder, "sleb").sizes["dense"].parameters
    assert rules(folder, "random").items(BASIS) == {"weights": 4 * dense}
    assert rules(folder, "magnitude").items(BASIS) == {"weights": 4 * dense, "statistics": 8 * 256**2}
    sleb = rules(folder, "sleb", calibration_samples=8).items(BASIS)
    assert sleb == rules(folder, "sleb", calibration_samples=128).items(BASIS), "one batch at a time"
    assert sleb["streams"] == 2 * 4 * 8 * 128 * 256
    stream = rules(folder, "slicegpt", calibration_samples=100).items(BASIS)["streams"]
    assert stream == 4 * 100 * 128 * 256, "all calibration tokens are kept"
    factors = rules(folder, "llm_surgeon").items(REGULARIZE)["factors"]
    assert factors == 4 * 8 * (8 * 256**2 + 3 * (256**2 + 512**2))
