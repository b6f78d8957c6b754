"""The demo's recipe is one that the service takes; `make demo-short` runs the rest for real."""

import runpy
from pathlib import Path

import pytest

from workers.contracts.recipe import Recipe

DEMO = Path(__file__).parents[1] / "deploy" / "demo"


@pytest.mark.parametrize("short", [False, True])
def test_the_recipe_is_valid(short: bool, tmp_path: Path):
    filled = runpy.run_path(str(DEMO / "main_job.py"))["filled"]
    recipe = Recipe.model_validate(filled(tmp_path, 0.5, short))
    assert recipe.model.source == str(tmp_path)
    assert recipe.method.ratio == 0.5
    assert recipe.data.recover_samples >= 32
