"""The real pipeline over an object store: what it stores is found, mapped, and made again when it is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import changed
from workers import pipeline
from workers.contracts.events import Event, StageFinished, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.errors import Transient
from workers.object_store.store import ObjectStore


def run(recipe: Recipe, url: str, workspace: Path) -> Iterator[Event]:
    workspace.mkdir()
    return pipeline.run(recipe, ObjectStore(url), workspace, Places(), owner="job")


def finished(events: list[Event]) -> dict[str, StageFinished]:
    return {event.stage: event for event in events if isinstance(event, StageFinished)}


@pytest.mark.slow
def test_a_flipped_byte_is_found_and_its_stage_computed_again(
    recipe: Recipe, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(run(recipe, bucket_url, tmp_path / "first"))
    pruned = finished(first)["prune"]
    store = ObjectStore(bucket_url)
    result = store.find(pruned.key)
    assert result is not None and not pruned.reused
    (weights,) = (file for file in result.files if file.path == "model.safetensors")
    path = f"blobs/{weights.sha256[:2]}/{weights.sha256}"
    content = bytearray(store._bucket.read(path) or b"")
    content[-1] ^= 1
    store._bucket.write(path, bytes(content))

    # On another node, a job that needs the pruned model.
    monkeypatch.setenv("DRESS_CACHE_DIR", str(tmp_path / "other-cache"))
    other = changed(recipe, recover__rank=1)
    with pytest.raises(Transient, match=rf"model.safetensors \({weights.sha256}\) are damaged"):
        list(run(other, bucket_url, tmp_path / "second"))
    again = list(run(other, bucket_url, tmp_path / "third"))
    assert isinstance(again[-1], Succeeded)
    assert not finished(again)["prune"].reused and finished(again)["regularize"].reused
    mended = store.find(pruned.key)
    assert mended is not None and weights in mended.files, "the same bytes as before"
