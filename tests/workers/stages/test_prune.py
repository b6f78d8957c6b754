"""What the prune stage tells of a cut: for each method what there is to tell, with the figures of its own models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import changed, tiny_llama
from workers import pipeline
from workers.contracts.events import Notice
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.local_store import LocalStore

ROUNDING = 1e-4
"""More than float32 arithmetic moves a logit of the tiny model."""


@pytest.fixture(scope="module")
def deep(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks, of which SLEB may take the middle one."""
    folder = tmp_path_factory.mktemp("deep")
    tiny_llama(num_hidden_layers=3).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def notice(recipe: Recipe, folder: Path, source: Path, method: dict[str, Any]) -> str:
    """The one notice of a job that cuts and measures nothing else."""
    wanted = changed(
        recipe,
        method=method,
        model={"source": str(source)},
        data__samples=8,
        data__split="1:0",
        recover={"kind": "none"},
        evaluate__perplexity=[],
    )
    (folder / "workspace").mkdir(parents=True)
    store = LocalStore(folder / "store")
    events = pipeline.run(wanted, store, folder / "workspace", Places(), owner="here")
    (told,) = [event.message for event in events if isinstance(event, Notice)]
    return told


@pytest.mark.parametrize(
    ("method", "words", "bounds"),
    [
        (
            {"kind": "magnitude", "ratio": 0.25},
            r"zeroing what goes .* (\S+), and cutting the zeros .* (\S+)",
            "large small",
        ),
        (
            {"kind": "sleb", "ratio": 0.34},
            r"silencing the blocks .* (\S+), and taking them out .* (\S+)",
            "large small",
        ),
        ({"kind": "slicegpt", "ratio": 0.25}, r"slicing, .* changed the logits by at most (\S+)", "large"),
        (
            {"kind": "llm_surgeon", "ratio": 0.25, "shots": 1},
            r"what goes was zero already .* at most (\S+) from those of the model after its last shot",
            "small",
        ),
        ({"kind": "dense"}, r"nothing was cut: .* at most (\S+) from those of the dense model", "small"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_a_cut_is_told_as_the_method_made_it(
    method: dict[str, Any], words: str, bounds: str, recipe: Recipe, deep: Path, tmp_path: Path
) -> None:
    told = re.fullmatch(words, notice(recipe, tmp_path, deep, method))
    assert told
    assert ["small" if float(figure) < ROUNDING else "large" for figure in told.groups()] == bounds.split()


def test_what_rounding_does_is_not_laid_at_the_cuts_door(recipe: Recipe, deep: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(deep, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(deep).save_pretrained(tmp_path / "half")
    told = notice(recipe, tmp_path / "job", tmp_path / "half", {"kind": "magnitude", "ratio": 0.25})
    assert told.endswith(" (its rounding to bfloat16 included)")
