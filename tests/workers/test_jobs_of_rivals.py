"""Whole jobs of the rivals that need no modelling file: from the text to a recovered model that reloads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import changed, run_here, tiny_llama
from workers.contracts.recipe import Recipe
from workers.planning.forecast import sizes_of

BLOCKS = 4


@pytest.fixture(scope="module")
def deep(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with more blocks."""
    folder = tmp_path_factory.mktemp("deep")
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    tiny_llama(num_hidden_layers=BLOCKS).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["magnitude", "random", "sleb"])
def test_a_job_ends_in_a_smaller_model(kind: str, recipe: Recipe, deep: Path, tmp_path: Path) -> None:
    method = {"kind": kind, "ratio": 0.25}
    wanted = changed(recipe, method=method, model__source=str(deep), data__split="0:1", data__samples=16)
    results = run_here(wanted, tmp_path)
    predicted = sizes_of(wanted, deep)
    for subject in ("dense", "pruned", "recovered"):
        measured = getattr(results, subject)
        assert (measured.parameters, measured.hidden_size) == (
            predicted[subject].parameters,
            predicted[subject].hidden_size,
        )
    assert results.pruned.parameters < results.dense.parameters
    assert results.pruned.perplexity["valid"] != results.dense.perplexity["valid"]
    assert results.recovered.perplexity["valid"] < results.pruned.perplexity["valid"]
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(tmp_path / "store", again / "store")
    assert run_here(wanted, again) == results, "every stage is found"
