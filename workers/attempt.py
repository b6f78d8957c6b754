"""The shell that every runner puts around the pipeline: it never raises, and its last event says how it ended."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.contracts.events import Event, Failed, StageStarted
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageName
from workers.contracts.store import ArtifactStore
from workers.errors import OutOfMemory, Transient, WorkerError
from workers.planning.needs import relief

log = logging.getLogger(__name__)


def run(
    recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str, rungs: Sequence[float] = ()
) -> Iterator[Event]:
    """The pipeline's events, closed by exactly one `Succeeded` or `Failed`.

    torch and transformers are imported here, not with the module: the process that holds leases never loads them.
    """
    stage: StageName | None = None
    try:
        from workers import pipeline

        for event in pipeline.run(recipe, store, workspace, places, owner, rungs):
            if isinstance(event, StageStarted):
                stage = event.stage
            yield event
    except Exception as error:
        failure = _classified(error, recipe, stage)
        if failure is not error:  # nobody foresaw it: where it came from will be wanted
            log.exception("the attempt failed")
        yield Failed(fault=failure.fault, code=failure.code, message=str(failure))


def _classified(error: Exception, recipe: Recipe, stage: StageName | None) -> WorkerError:
    """Whose fault an exception is. What nobody foresaw is called transient: a retry costs little, and is capped."""
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        if stage is None:
            return OutOfMemory(f"memory did not suffice to load the model ({error}); ask for a larger node")
        return OutOfMemory(f"memory did not suffice for the {stage} stage ({error}); {relief(stage, recipe)}")
    return Transient(f"{type(error).__name__}: {error}")
