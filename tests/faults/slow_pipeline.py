"""The paced pipeline at a pace at which it can be killed, with a log of every trial that begins and ends in it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.workers.searching import paced_pipeline
from workers.contracts.events import Event, Progress
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.store import ArtifactStore

LOG = "DRESS_FAULTS_LOG"
"""Environment variable with the log's path."""

STEP_SECONDS = 0.05


def run(
    recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str, rungs: Sequence[float] = ()
) -> Iterator[Event]:
    """`owner` is SEARCH:TRIAL."""
    write(owner, "begun")
    pause = threading.Event()
    for event in paced_pipeline.run(recipe, store, workspace, places, owner, rungs):
        if isinstance(event, Progress):
            pause.wait(STEP_SECONDS)
        yield event
    write(owner, "ended")


def write(owner: str, what: str) -> None:
    """A line of the log: which trial, what, when (seconds since the epoch), in which process."""
    line = json.dumps({"trial": owner, "what": what, "at": time.time(), "pid": os.getpid()})
    with Path(os.environ[LOG]).open("a", encoding="utf-8") as log:
        log.write(line + "\n")
