"""The pipeline as it is, with a log of when each trial begins, takes its first training step, and ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.slow_pipeline import write
from workers import attempt
from workers.contracts.events import Event, Failed, Progress, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.store import ArtifactStore


def run(
    recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str, rungs: Sequence[float] = ()
) -> Iterator[Event]:
    """`owner` is SEARCH:TRIAL."""
    write(owner, "begun")
    trains = False
    for event in attempt.run(recipe, store, workspace, places, owner, rungs):
        if not trains and isinstance(event, Progress) and event.stage == "regularize":
            trains = True
            write(owner, "trains")
        elif isinstance(event, Succeeded | Failed):  # nobody asks on after the last word
            write(owner, "ended")
        yield event
