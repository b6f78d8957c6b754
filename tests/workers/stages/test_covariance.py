"""The dense model is looked at once: ratios share what was learnt of it, one attempt learns it, and no bit differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.conftest import changed
from tests.workers.models.variants import gemma
from workers import checkpoints, pipeline
from workers.contracts.events import Event, Notice, StageFinished, StageStarted, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.local_store import LocalStore
from workers.planning.plan import stages_of
from workers.pruning import basis
from workers.pruning.dress import METHOD
from workers.pruning.method import Preparation
from workers.stages import covariance
from workers.workbench import Workbench


class Runs:
    """Runs recipes over one store, each in a workspace of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.count = folder, LocalStore(folder / "store"), 0

    def start(self, recipe: Recipe, owner: str = "job") -> Iterator[Event]:
        self.count += 1
        workspace = self.folder / f"workspace-{self.count}"
        workspace.mkdir()
        return pipeline.run(recipe, self.store, workspace, Places(), owner)

    def left_by(self, events: list[Event], stage: str, file: str) -> dict[str, torch.Tensor]:
        key = next(event.key for event in events if isinstance(event, StageFinished) and event.stage == stage)
        found = self.store.find(key)
        assert found is not None
        (stored,) = (each for each in found.files if each.path == file)
        return load_file(self.store.fetch(stored, self.folder / "left" / key))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def recipe(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Without perplexities, figures and recovery, which take longer than all the rest."""
    monkeypatch.setattr(pipeline, "drawn", lambda *_: [])
    return changed(recipe, evaluate__perplexity=[], recover={"kind": "none"})


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the dense model is looked at."""
    counted: list[int] = []
    plain = covariance.look

    def look(*arguments: Any) -> basis.StreamStatistics:
        counted.append(1)
        return plain(*arguments)

    monkeypatch.setattr(covariance, "look", look)
    return counted


def reused(events: list[Event]) -> set[str]:
    return {event.stage for event in events if isinstance(event, StageFinished) and event.reused}


def digest(events: list[Event]) -> str | None:
    assert isinstance(events[-1], Succeeded)
    return events[-1].results.pruned.weights_digest


def test_ratios_share_one_look_and_a_plan_knows_it(recipe: Recipe, runs: Runs, looks: list[int]) -> None:
    list(runs.start(recipe))
    half = changed(recipe, method__ratio=0.5)
    planned = stages_of(half, Workbench(half, runs.store, runs.folder / "bench", Places()).sources)
    known = {stage.name for stage in planned if all(runs.store.find(key or "") for key in stage.result_keys)}
    assert known == {"evaluate", "covariance"}, "the dense model's sizes, and what was learnt of it"
    events = list(runs.start(half))
    assert len(looks) == 1 and "covariance" in reused(events) and "basis" not in reused(events)
    alone = Runs(runs.folder / "alone")
    alone.folder.mkdir()
    assert digest(list(alone.start(half))) == digest(events) and len(looks) == 2


@pytest.mark.parametrize("changes", [{"refinement": 0.0}, {"basis": "channels"}, {"channels": "magnitude"}], ids=str)
def test_without_a_refinement_ratios_share_the_basis_too(
    changes: dict[str, Any], recipe: Recipe, runs: Runs, looks: list[int]
) -> None:
    first, half = (changed(recipe, method={"ratio": ratio, **changes}) for ratio in (0.25, 0.5))
    list(runs.start(first))
    events = list(runs.start(half))
    assert {"covariance", "basis"} <= reused(events) and len(looks) == 1
    alone = Runs(runs.folder / "alone")
    alone.folder.mkdir()
    again = list(alone.start(half))
    assert digest(again) == digest(events)
    left, wanted = (each.left_by(told, "basis", "basis.safetensors") for each, told in ((runs, events), (alone, again)))
    assert left.keys() == wanted.keys() and all(torch.equal(left[name], wanted[name]) for name in left)


def test_the_axes_are_those_of_one_go(recipe: Recipe, runs: Runs) -> None:
    """Statistics, axes and descent written down in a row, on one model, as one stage did them."""
    axes = runs.left_by(list(runs.start(recipe)), "basis", "basis.safetensors")["axes"]
    bench = Workbench(recipe, runs.store, runs.folder / "bench", Places())
    model = checkpoints.load_model(bench.dense_folder, torch.float32, bench.device).eval()
    sequences = bench.regularize_sequences
    found = basis.stream_statistics(model, bench.family, torch.split(sequences, 8), gradients=True, seed=recipe.seed)
    task = Preparation(model, sequences, recipe.seed, None, found)
    start = basis.principal_axes(basis.importance(found, recipe.method.sensitivity))
    assert start.shape == axes.shape and not torch.equal(start, axes), "they are refined"
    run = METHOD.prepare(recipe.method, bench.family, task)
    while True:
        try:
            next(run)
        except StopIteration as end:
            assert torch.equal(end.value["axes"], axes)
            return


def test_of_two_attempts_one_looks_and_the_other_waits(recipe: Recipe, runs: Runs, looks: list[int]) -> None:
    def until_covariance(events: Iterator[Event]) -> None:
        for event in events:
            if isinstance(event, StageStarted) and event.stage == "covariance":
                return

    first = runs.start(recipe, owner="one")
    until_covariance(first)
    claimed = stages_of(recipe, Workbench(recipe, runs.store, runs.folder / "bench", Places()).sources)
    key = next(stage.key for stage in claimed if stage.name == "covariance")
    assert runs.store.claim(key or "", "another", 30.0)
    waiting = next(first)
    assert isinstance(waiting, Notice) and waiting.message.endswith("computes the same covariance stage")
    assert looks == []
    runs.store.release(key or "", "another")
    list(first)
    assert "covariance" in reused(list(runs.start(changed(recipe, method__ratio=0.5), owner="two"))) and len(looks) == 1


def test_a_family_that_is_not_rotated_needs_no_gradients(
    recipe: Recipe, checkpoint: Path, tmp_path: Path, runs: Runs
) -> None:
    """`basis: auto` leaves Gemma 2's channels as they stand, and the plan cannot know it."""
    gemma("gemma2", vocab_size=300, sliding_window=16).save_pretrained(tmp_path / "gemma2")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "gemma2")
    events = list(runs.start(changed(recipe, model__source=str(tmp_path / "gemma2"))))
    left = runs.left_by(events, "covariance", "covariance.safetensors")
    order = runs.left_by(events, "basis", "basis.safetensors")["order"]
    assert not left["gradient"].any()
    assert torch.equal(order, left["activation"].diagonal().argsort(descending=True, stable=True))
