"""Pipelines that report as the real one does, without torch. Tests steer them through files in `data.path`'s folder."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from workers.contracts.events import (
    ArtifactStored,
    CheckpointLoaded,
    CheckpointSaved,
    Event,
    Failed,
    Measured,
    Notice,
    Progress,
    StageFinished,
    StageStarted,
    Succeeded,
)
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results
from workers.contracts.store import ArtifactStore

STEPS = 5
KEY = "a" * 64


def whole(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """One stage, five steps, a file, a success."""
    yield StageStarted(stage="regularize", key=KEY, index=0, count=1)
    for step in range(1, STEPS + 1):
        yield Progress(stage="regularize", step=step, steps=STEPS, metrics={"loss": 1.0 / step})
    file = workspace / "config.json"
    file.write_text("{}", "utf-8")
    yield ArtifactStored(files=[store.put(file, "model/config.json")])
    measurement = Measurement(parameters=7, perplexity={"text": float(recipe.seed)})
    yield Measured(subject="pruned", measurement=measurement)
    yield StageFinished(stage="regularize", key=KEY, seconds=0.1, reused=False)
    yield Succeeded(results=Results(pruned=measurement))


def gated(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """Says its process id and where it goes on from, saves a checkpoint, waits for the file `go` beside its text."""
    folder = Path(recipe.data.path or "").parent
    yield Notice(message=f"pid {os.getpid()}")
    step = store.load_checkpoint(KEY, workspace)
    if step is not None:
        yield CheckpointLoaded(stage="regularize", step=step)
    state = workspace / "state"
    state.write_text("3", "utf-8")
    store.save_checkpoint(KEY, 3, workspace)
    yield CheckpointSaved(stage="regularize", step=3)
    yield Progress(stage="regularize", step=3, steps=STEPS)
    while not (folder / "go").exists():
        threading.Event().wait(0.02)
        yield Progress(stage="regularize", step=4, steps=STEPS, metrics={"seconds": time.monotonic()})
    yield Succeeded(results=Results())


def waits(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """Waits for the file `go` beside its text, and shares nothing with others."""
    yield StageStarted(stage="regularize", key=KEY, index=0, count=1)
    while not (Path(recipe.data.path or "").parent / "go").exists():
        threading.Event().wait(0.05)
        yield Progress(stage="regularize", step=1, steps=STEPS)
    yield Succeeded(results=Results())


def out_of_memory(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    yield Failed(fault="out_of_memory", code="out_of_memory", message="use a smaller batch_size")


def passing_fault(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """Fails once, then succeeds."""
    folder = Path(recipe.data.path or "").parent
    if not (folder / "failed-once").exists():
        (folder / "failed-once").touch()
        yield Failed(fault="transient", code="transient", message="the network was away; try again")
        return
    yield Succeeded(results=Results())


def breaks(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """Raises, which the real pipeline never does."""
    yield Notice(message="soon")
    raise RuntimeError("unforeseen")


def environment(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """Reports what its process sees."""
    yield Notice(message=f"threads {os.environ.get('OMP_NUM_THREADS')}")
    yield Notice(message=f"gpus {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")
    yield Notice(message=f"cublas {os.environ.get('CUBLAS_WORKSPACE_CONFIG')}")
    yield Notice(message=f"workspace {workspace}")
    yield Succeeded(results=Results())
