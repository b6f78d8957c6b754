"""A job's artifact has its records and the figures drawn from them; what cannot be drawn costs no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import changed
from workers import drawing, pipeline
from workers.contracts.events import ArtifactStored, CheckpointSaved
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import StoredFile
from workers.drawing import drawn
from workers.local_store import LocalStore

RECORD = {"stage": "recover", "steps": 2, "step": [1, 2], "metrics": {"loss": [3.0, 2.0]}}


def stored(store: LocalStore, folder: Path, path: str, content: object) -> StoredFile:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return store.put(file, path)


def files_of(recipe: Recipe, folder: Path, stop_at_stage: str | None = None) -> dict[str, str]:
    """Digests by path, of a run in this folder's store; empty if it was stopped at a stage's first checkpoint."""
    workspace = folder / f"workspace-{stop_at_stage}"
    workspace.mkdir(parents=True)
    files: dict[str, str] = {}
    for event in pipeline.run(recipe, LocalStore(folder / "store"), workspace, Places(), owner="here"):
        if isinstance(event, CheckpointSaved) and event.stage == stop_at_stage:
            return {}
        if isinstance(event, ArtifactStored):
            files = {file.path: file.sha256 for file in event.files}
    return files


def test_an_interrupted_job_leaves_the_same_records_and_figures(recipe: Recipe, tmp_path: Path) -> None:
    recipe = changed(recipe, recover={"kind": "full", "distillation": 0.5, "training": {"batch_size": 2}})
    wanted = files_of(recipe, tmp_path / "undisturbed")
    assert {path for path in wanted if not path.startswith("model/")} == {
        *(f"records/{name}.json" for name in ("basis", "preserved_ratios", "recover", "regularize")),
        *(
            f"figures/{name}.{form}"
            for name in ("learning_rate", "loss", "preserved_by_matrix", "preserved_ratio", "stream_distance")
            for form in ("svg", "png")
        ),
    }
    assert not any("records" in path for path in wanted if path.startswith("model/"))
    for stage in ("basis", "regularize", "recover"):
        assert files_of(recipe, tmp_path / "disturbed", stop_at_stage=stage) == {}
    given = files_of(recipe, tmp_path / "disturbed")
    del wanted["model/README.md"], given["model/README.md"]  # the card may tell seconds
    assert given == wanted


def test_figures_are_drawn_from_the_stores_records(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    records = [stored(store, tmp_path / "stage", "records/recover.json", RECORD)]
    (tmp_path / "workspace").mkdir()
    files = drawn(records, store, tmp_path / "workspace")
    assert [file.path for file in files] == ["figures/loss.svg", "figures/loss.png"]
    svg = store.fetch(files[0], tmp_path / "out")
    assert "recover stage" in (tmp_path / "out" / "figures" / "loss.svg").read_text(), svg


@pytest.mark.parametrize("record", [{}, {**RECORD, "metrics": {"loss": [1.0]}}, [1]], ids=str)
def test_a_record_that_cannot_be_drawn_is_told_and_passed_over(
    record: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalStore(tmp_path / "store")
    records = [stored(store, tmp_path / "stage", "records/recover.json", record)]
    (tmp_path / "workspace").mkdir()
    assert drawn(records, store, tmp_path / "workspace") == []
    assert "cannot be drawn" in caplog.text


def test_a_store_that_fails_is_not_taken_for_a_bad_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    records = [stored(store, tmp_path / "stage", "records/recover.json", RECORD)]

    def broken(*_: object) -> StoredFile:
        raise OSError("the disk is full")

    monkeypatch.setattr(store, "put", broken)
    (tmp_path / "workspace").mkdir()
    with pytest.raises(OSError, match="full"):
        drawn(records, store, tmp_path / "workspace")


def test_nothing_recorded_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "job_figures", lambda _: pytest.fail("nothing to draw"))
    assert drawn([], LocalStore(tmp_path), tmp_path) == []
