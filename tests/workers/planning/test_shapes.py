"""What each method leaves of a model's tensors, summed by hand; the conformance suites compare with true cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import changed
from tests.stored import SMALL_LLAMA, llama_shapes, write_model
from workers import stored_model
from workers.contracts.recipe import Recipe
from workers.errors import RecipeError
from workers.models.family import family_of
from workers.planning.forecast import Size, sizes_of
from workers.planning.shapes import require_possible

RECIPE = Recipe.model_validate({"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}})
DEEP = {**SMALL_LLAMA, "num_hidden_layers": 8}
EMBEDDING = 100 * 64
KEYS = 2 * 16
"""Heads of keys, of 16 channels."""
MATRICES = 2 * 64 * 64 + 2 * KEYS * 64 + 3 * 96 * 64
"""Of a block; each has one axis of 64 channels along the stream."""
BLOCK = MATRICES + 2 * 64


def pruned(folder: Path, **method: Any) -> Size:
    return sizes_of(changed(RECIPE, method=method), folder)["pruned"]


def test_a_block_less_is_its_parameters_less(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "deep", DEEP)
    assert sizes_of(RECIPE, folder)["dense"] == Size(2 * EMBEDDING + 64 + 8 * BLOCK, 64)
    for ratio, left in ((0.125, 7), (0.25, 6), (0.75, 2)):
        assert pruned(folder, kind="sleb", ratio=ratio) == Size(2 * EMBEDDING + 64 + left * BLOCK, 64)


def test_blocks_of_a_bare_decoder_are_found(tmp_path: Path) -> None:
    shapes = {name.removeprefix("model."): shape for name, shape in llama_shapes(DEEP).items()}
    bare = pruned(write_model(tmp_path / "bare", DEEP, shapes), kind="sleb", ratio=0.25)
    assert bare == pruned(write_model(tmp_path / "whole", DEEP), kind="sleb", ratio=0.25)
    foreign = {name.replace("layers", "stages"): shape for name, shape in llama_shapes(DEEP).items()}
    with pytest.raises(LookupError, match="layers"):
        pruned(write_model(tmp_path / "foreign", DEEP, foreign), kind="sleb", ratio=0.25)


def test_channels_at_once_leave_what_dress_leaves_in_its_own_basis(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tied", {**SMALL_LLAMA, "tie_word_embeddings": True})
    dress = pruned(folder, kind="dress", preset="paper", ratio=0.25)
    assert pruned(folder, kind="magnitude", ratio=0.25) == pruned(folder, kind="random", ratio=0.25) == dress
    assert pruned(folder, kind="random", ratio=0.4, round_to=32).hidden_size == 32


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_sliced_model_has_shortcuts_and_a_head_of_its_own(is_tied: bool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", {**SMALL_LLAMA, "tie_word_embeddings": is_tied})
    kept, shortcuts = 48, 4
    whole = EMBEDDING * 2 + 2 * MATRICES
    sliced = pruned(folder, kind="slicegpt", ratio=0.25, slice_head=True)
    assert sliced == Size(whole * kept // 64 + shortcuts * kept**2, kept)
    wide = pruned(folder, kind="slicegpt", ratio=0.25)
    assert wide.parameters - sliced.parameters == (100 + 96 + kept) * 16, "head, last writer and last shortcut"
    rotated = pruned(folder, kind="slicegpt", ratio=0)
    assert rotated == Size(whole + shortcuts * 64**2, 64)


def test_zeros_keep_the_shapes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert pruned(folder, kind="llm_surgeon", ratio=0.5) == sizes_of(RECIPE, folder)["dense"]


@pytest.mark.parametrize(
    ("method", "field", "words"),
    [
        ({"kind": "sleb", "ratio": 0.5}, "method.kind", "2 blocks"),
        ({"kind": "magnitude", "ratio": 0.001}, "method.ratio", "choose a ratio between"),
        ({"kind": "random", "ratio": 0.25, "round_to": 6}, "method.round_to", "not a multiple of 4"),
        ({"kind": "slicegpt", "ratio": 0.9}, "method.round_to", "lower `round_to`"),
        ({"kind": "dress", "solver": "elastic", "ratio": 0.5, "elastic_ratios": [0.5, 0.01]}, "method.ratio", "0.01"),
    ],
)
def test_what_cannot_be_is_refused(method: dict[str, Any], field: str, words: str, tmp_path: Path) -> None:
    config = stored_model.plain_config(write_model(tmp_path / "model"))
    if method["kind"] == "slicegpt":
        config.hidden_size = 32  # a tenth of it is less than 8
    with pytest.raises(RecipeError, match=words) as refused:
        require_possible(changed(RECIPE, method=method).method, family_of(config), config)
    assert refused.value.field == field


@pytest.mark.parametrize("kind", ["dense", "dress", "magnitude", "random", "slicegpt", "llm_surgeon"])
def test_what_can_be_passes(kind: str, tmp_path: Path) -> None:
    config = stored_model.plain_config(write_model(tmp_path / "model"))
    method = {"kind": kind} if kind == "dense" else {"kind": kind, "ratio": 0.25}
    require_possible(changed(RECIPE, method=method).method, family_of(config), config)


def test_slicegpt_needs_a_family_with_shortcuts(tmp_path: Path) -> None:
    config = stored_model.plain_config(write_model(tmp_path / "model"))
    config.model_type = "gemma2"
    with pytest.raises(RecipeError, match="no modelling file.*llama.*opt.*phi") as refused:
        require_possible(changed(RECIPE, method={"kind": "slicegpt", "ratio": 0.25}).method, family_of(config), config)
    assert refused.value.field == "method.kind"
