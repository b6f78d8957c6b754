"""What the model's own config.json rules out is refused before a job is queued, whichever method is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidRecipe
from service.screening import screened
from tests.stored import write_model
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe


@pytest.mark.parametrize(
    ("method", "field", "words"),
    [
        ({"kind": "sleb", "ratio": 0.5}, "method.kind", "2 blocks"),
        ({"kind": "random", "ratio": 0.001}, "method.ratio", "0.0625"),
        ({"kind": "magnitude", "ratio": 0.25, "round_to": 6}, "method.round_to", "multiple of 4"),
        ({"kind": "slicegpt", "ratio": 0.9, "round_to": 64}, "method.round_to", "lower `round_to`"),
    ],
)
def test_a_rival_that_cannot_be_is_refused(method: dict[str, Any], field: str, words: str, tmp_path: Path) -> None:
    source = str(write_model(tmp_path / "model"))
    recipe = Recipe.model_validate({"model": {"source": source}, "method": method})
    with pytest.raises(InvalidRecipe, match=words) as refused:
        screened(recipe, Places(model_roots=[str(tmp_path)], data_roots=[str(tmp_path)]))
    assert refused.value.field == field


@pytest.mark.parametrize("kind", ["random", "magnitude", "slicegpt", "llm_surgeon"])
def test_a_rival_that_can_be_passes(kind: str, tmp_path: Path) -> None:
    source = str(write_model(tmp_path / "model"))
    recipe = Recipe.model_validate({"model": {"source": source}, "method": {"kind": kind, "ratio": 0.25}})
    assert screened(recipe, Places(model_roots=[str(tmp_path)], data_roots=[str(tmp_path)])) == recipe
