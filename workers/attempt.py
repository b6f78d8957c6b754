"""The shell that every runner puts around the pipeline: it never raises, and its last event says how it ended."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.contracts.events import Event, Failed
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.store import ArtifactStore
from workers.errors import OutOfMemory, Transient, WorkerError

log = logging.getLogger(__name__)


def run(
    recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str, rungs: Sequence[float] = ()
) -> Iterator[Event]:
    """The pipeline's events, closed by exactly one `Succeeded` or `Failed`.

    torch and transformers are imported here, not with the module: the process that holds leases never loads them.
    """
    try:
        from workers import pipeline

        yield from pipeline.run(recipe, store, workspace, places, owner, rungs)
    except Exception as error:
        failure = _classified(error, recipe)
        if failure is not error:  # nobody foresaw it: where it came from will be wanted
            log.exception("the attempt failed")
        yield Failed(fault=failure.fault, code=failure.code, message=str(failure))


def _classified(error: Exception, recipe: Recipe) -> WorkerError:
    """Whose fault an exception is. What nobody foresaw is called transient: a retry costs little, and is capped."""
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        tokens = recipe.data.sequence_length or "as many as the model takes"
        return OutOfMemory(
            f"memory did not suffice ({error}); lower method.training.batch_size, recover.training.batch_size or "
            f"data.sequence_length (now {tokens}), or ask for a larger node"
        )
    return Transient(f"{type(error).__name__}: {error}")
