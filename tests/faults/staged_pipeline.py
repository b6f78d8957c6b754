"""A pipeline for campaigns, without torch: stages, checkpoints and files as the real one has, each step written down.

Its attempts write to the history what they tell before they tell it, and what they stored once it is stored.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from tests.faults import planted
from tests.faults.history import PLACE, Fact, History
from workers.contracts.events import (
    ArtifactStored,
    CheckpointLoaded,
    CheckpointSaved,
    Event,
    Failed,
    Progress,
    StageFinished,
    StageStarted,
    Succeeded,
)
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results, StageName, StageResult, StoredFile
from workers.contracts.store import ArtifactStore
from workers.errors import WorkerError
from workers.local_store import LocalStore

STAGES: tuple[StageName, ...] = ("regularize", "prune", "recover")
STEPS = 3
CHECKPOINT_STEP = 2

PACE = "DRESS_CAMPAIGN_STEP_SECONDS"
"""Environment variable: how long a step takes."""
FULL = "DRESS_CAMPAIGN_DISK_FULL"
"""Environment variable with the path of a file; while it exists, there is no room in the store."""


class CrampedStore(LocalStore):
    """A store on a disk that is full at times."""

    def _draft(self) -> Path:
        if os.path.exists(os.environ[FULL]):
            raise OSError(28, os.strerror(28))  # ENOSPC
        return super()._draft()


def run(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """`owner` is the job."""
    attempt = Attempt(recipe, CrampedStore(cast("LocalStore", store).root), workspace, owner)
    attempt.note("begun", pid=os.getpid())
    for sequence, event in enumerate(attempt.events(), 1):
        attempt.note("told", sequence=sequence, **gist(event))
        yield event


@dataclass(frozen=True)
class Attempt:
    """One try at a recipe."""

    recipe: Recipe
    store: LocalStore
    workspace: Path
    job_id: str

    def note(self, what: str, **fields: object) -> None:
        """Write down what this attempt does. Its workspace is named after it."""
        _history().add(what, job=self.job_id, attempt=self.workspace.name.rpartition("-")[0], **fields)

    def events(self) -> Iterator[Event]:
        """All stages, then the last word."""
        try:
            for index, stage in enumerate(STAGES):
                yield from self._stage(index, stage)
            yield Succeeded(results=Results(pruned=Measurement(parameters=self.recipe.seed)))
        except WorkerError as error:
            yield Failed(fault=error.fault, code=error.code, message=str(error))

    def _stage(self, index: int, stage: StageName) -> Iterator[Event]:
        key = hashlib.sha256(f"{self.recipe.seed} {stage}".encode()).hexdigest()
        yield StageStarted(stage=stage, key=key, index=index, count=len(STAGES))
        known = self.store.find(key)
        began = time.monotonic()
        if known is None:
            yield from self._steps(stage, key)
            yield from self._file(stage, key)
        else:
            self.note("found", files=[file.sha256 for file in known.files])
            yield ArtifactStored(files=known.files)
        yield StageFinished(stage=stage, key=key, seconds=time.monotonic() - began, reused=known is not None)

    def _steps(self, stage: StageName, key: str) -> Iterator[Event]:
        folder = self.workspace / stage
        folder.mkdir()
        done = self.store.load_checkpoint(key, folder) or 0
        if done:
            yield CheckpointLoaded(stage=stage, step=done)
        pause, pace_seconds = threading.Event(), float(os.environ[PACE])
        for step in range(done + 1, STEPS + 1):
            pause.wait(pace_seconds)
            yield Progress(stage=stage, step=step, steps=STEPS)
            if step == CHECKPOINT_STEP:
                (folder / "state").write_text(str(step), "utf-8")
                self.store.save_checkpoint(key, step, folder)
                yield CheckpointSaved(stage=stage, step=step)

    def _file(self, stage: StageName, key: str) -> Iterator[Event]:
        file = self.workspace / f"{stage}.weights"
        file.write_text(f"{self.recipe.seed} {stage}\n" * 100, "utf-8")
        if planted.is_planted("told_before_stored"):
            content = file.read_bytes()
            told = StoredFile(path=file.name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
            yield ArtifactStored(files=[told])
        stored = self.store.put(file, file.name)
        self.note("stored", files=[stored.sha256])
        self.store.publish(StageResult(stage=stage, key=key, files=[stored], seconds=0.0))
        self.store.drop_checkpoint(key)
        if not planted.is_planted("told_before_stored"):
            yield ArtifactStored(files=[stored])


def gist(event: Event) -> Fact:
    """What tells an event from others of its attempt, as it will stand in the database too."""
    told = event.model_dump(mode="json")
    named = {name: told[name] for name in ("type", "stage", "step", "code") if told.get(name) is not None}
    return named | ({"files": [file["sha256"] for file in told["files"]]} if "files" in told else {})


@cache
def _history() -> History:
    return History(Path(os.environ[PLACE]))
