"""Room on the device: what cannot fit ends before anything is loaded, and what is known already need not fit."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from workers import attempt, pipeline
from workers.contracts.events import Failed, Notice, StageFinished, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.errors import OutOfMemory
from workers.local_store import LocalStore
from workers.planning import needs, room

CPU = torch.device("cpu")
TRAINING: needs.Stage = ("regularize", None)
CUTTING: needs.Stage = ("prune", None)


def events_of(recipe: Recipe, folder: Path, name: str) -> list:
    workspace = folder / name
    workspace.mkdir()
    return list(attempt.run(recipe, LocalStore(folder / "store"), workspace, Places(), "job"))


def test_what_cannot_fit_ends_before_anything_runs(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "device_bytes", lambda _device: 1_000_000)
    *before, failed = events_of(recipe, tmp_path, "one")
    assert before == [] and isinstance(failed, Failed)
    assert (failed.fault, failed.code) == ("out_of_memory", "out_of_memory")
    assert "the regularize stage needs about" in failed.message and "the node has 1.0 MiB" in failed.message
    assert "method.stream_distillation: 0.0 it needs about 0.5 MiB" in failed.message, "with what would fit"


def test_what_is_known_need_not_fit(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(events_of(recipe, tmp_path, "one")[-1], Succeeded)
    monkeypatch.setattr(room, "device_bytes", lambda _device: 1)
    events = events_of(recipe, tmp_path, "two")
    assert isinstance(events[-1], Succeeded)
    assert all(event.reused for event in events if isinstance(event, StageFinished))


def test_a_need_that_cannot_be_told_is_no_obstacle(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise LookupError("a tensor of another name")

    monkeypatch.setattr(needs, "rules_for", unknown)
    first = next(iter(pipeline.run(recipe, LocalStore(tmp_path / "store"), tmp_path, Places(), "job")))
    assert isinstance(first, Notice) and "a tensor of another name" in first.message


def test_only_the_stages_that_are_missing_count(
    recipe: Recipe, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = needs.rules_for(recipe, checkpoint)
    training, cutting = (needs.peak_bytes(rules.items(stage)) for stage in (TRAINING, CUTTING))
    assert training > cutting
    monkeypatch.setattr(room, "device_bytes", lambda _device: cutting)
    room.require_room(recipe, checkpoint, CPU, [CUTTING])
    with pytest.raises(OutOfMemory, match="the regularize stage"):
        room.require_room(recipe, checkpoint, CPU, [CUTTING, TRAINING])


@pytest.mark.parametrize("limit", ["1048576\n", "max\n", None])
def test_a_containers_limit_counts(limit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "memory.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(room, "_CGROUP_LIMIT", file)
    whole = psutil.virtual_memory().total
    assert room.device_bytes(CPU) == (1_048_576 if limit == "1048576\n" else whole)
