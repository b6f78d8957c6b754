"""Zero-shot rows on the server: keys as the worker's, bad files refused at submission, absent ones noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidRecipe
from service.screening import screened
from service.settings import Settings
from service.sources import look
from tests.stored import write_model
from tests.workers.tasks.official import FILES, OFFICIAL, write_all, write_rows
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.local_store import LocalStore
from workers.tasks.task import digest, load_local


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_all(tmp_path / "data")


@pytest.fixture
def opened(settings: Settings, tmp_path: Path, folder: Path) -> Settings:
    roots = (str(tmp_path),)
    return settings.model_copy(update={"model_roots": roots, "data_roots": roots, "data_dir": (str(folder),)})


def asking(tmp_path: Path, tasks: list[Any]) -> Recipe:
    source = tmp_path / "model"
    if not source.exists():
        write_model(source)
    evaluate = {"perplexity": [], "tasks": tasks}
    method = {"kind": "dress", "ratio": 0.25}
    return Recipe.model_validate({"model": {"source": str(source)}, "method": method, "evaluate": evaluate})


def test_the_digests_of_a_plan_are_those_of_the_rows(tmp_path: Path, folder: Path, opened: Settings) -> None:
    recipe = asking(tmp_path, ["piqa", "sciq"])
    seen = look(recipe, opened, LocalStore(tmp_path / "store"))
    rows = load_local(recipe.evaluate.wanted_tasks[0], Places(data_dirs=[str(folder)]))
    assert rows is not None and seen.sources.tasks == {"piqa": digest(rows), "sciq": None}
    (note,) = (note for note in seen.notes if "sciq" in note)
    assert note.startswith("evaluate.tasks.1") and "the worker asks the hub" in note


def test_a_bad_file_is_refused_at_submission(tmp_path: Path, folder: Path, opened: Settings) -> None:
    recipe = asking(tmp_path, ["winogrande", "piqa"])
    assert screened(recipe, opened.places()) == recipe
    rows = [{name: value for name, value in row.items() if name != "label"} for row in OFFICIAL["piqa"]]
    write_rows(folder, FILES["piqa"], rows)
    with pytest.raises(InvalidRecipe, match="it has no 'label'") as refused:
        screened(recipe, opened.places())
    assert refused.value.field == "evaluate.tasks.1"
