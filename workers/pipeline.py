"""The story of an attempt on one page: plan the stages, then run each, or find its result, yielding events.

A stage's key is the digest of all that decides its result, known before anything runs. A result that exists under its
key is not computed again, so a retry, a repeated job and a trial that shares a prefix all start where they differ.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from workers.contracts.events import (
    ArtifactStored,
    Event,
    Measured,
    Notice,
    StageFinished,
    StageStarted,
    Succeeded,
)
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results, StageName, StageResult, StoredFile, Subject
from workers.contracts.store import ArtifactStore
from workers.errors import Transient
from workers.model_card import model_card
from workers.stages.benchmark import benchmark
from workers.stages.evaluate import evaluate
from workers.stages.outcome import StageRun
from workers.stages.prune import prune
from workers.stages.recover import recover
from workers.stages.regularize import regularize
from workers.workbench import Workbench, code_digest, machine_type

CLAIM_SECONDS = 30.0
"""How long a claim on a stage stands unless it is prolonged; while the stage is computed, it is."""


@dataclass(frozen=True)
class Stage:
    """One step of the plan."""

    name: StageName
    key: str
    run: Callable[[], StageRun]
    subject: Subject | None = None


def run(recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str) -> Iterator[Event]:
    """Run a recipe to its end. The last event is `Succeeded`; the model is in the store as the artifact `model/`.

    Args:
        workspace: an empty folder for working files; the caller removes it.
        owner: who claims a stage's computation; attempts at one job share it.
    Raises:
        RecipeError, Transient: see `workers.errors`; torch's and Python's own memory errors pass through.
    """
    bench = Workbench(recipe, store, workspace, places)
    finished: dict[str, StageResult] = {}
    stages = plan(bench, finished)
    results = Results()
    if any(store.find(stage.key) is None for stage in stages if stage.name in ("regularize", "recover")):
        _ = bench.sequences  # too few samples should be known before the dense model is evaluated
    for index, stage in enumerate(stages):
        yield StageStarted(stage=stage.name, subject=stage.subject, key=stage.key, index=index, count=len(stages))
        started = time.monotonic()
        result, reused = yield from _once(stage, bench, owner)
        finished[stage.key] = result
        for subject, measurement in result.measurements.items():
            results = results.with_measurement(subject, measurement)
            yield Measured(subject=subject, measurement=measurement)
        seconds = time.monotonic() - started
        yield StageFinished(stage=stage.name, subject=stage.subject, key=stage.key, seconds=seconds, reused=reused)
    yield ArtifactStored(files=_artifact(bench, finished, results))
    yield Succeeded(results=results)


def plan(bench: Workbench, finished: dict[str, StageResult]) -> list[Stage]:
    """The stages of a recipe, in order, with their keys. `finished` fills as they end: later stages read from it."""
    recipe = bench.recipe
    digest, code = bench.digest, [code_digest(), bench.device.type]
    data = [recipe.data.model_dump(), bench.training_text.sha256, recipe.seed]
    texts = [recipe.evaluate.model_dump(exclude={"speed"}), {name: text.sha256 for name, text in bench.texts.items()}]

    def folder(key: str) -> Path:
        return bench.folder_of(finished[key])

    def measuring(subject: Subject, model: str, folder_of_model: Callable[[], Path]) -> Stage:
        key = digest("evaluate", model, texts, code)
        return Stage("evaluate", key, lambda: evaluate(bench, subject, folder_of_model()), subject)

    regularized = digest("regularize", bench.dense_digest, recipe.method.model_dump(), data, code)
    pruned = digest("prune", regularized)
    subjects: dict[Subject, Callable[[], Path]] = {
        "dense": lambda: bench.dense_folder,
        "pruned": lambda: folder(pruned),
    }
    stages = [
        measuring("dense", bench.dense_digest, subjects["dense"]),
        Stage("regularize", regularized, lambda: regularize(bench, regularized)),
        Stage("prune", pruned, lambda: prune(bench, pruned, folder(regularized))),
        measuring("pruned", pruned, subjects["pruned"]),
    ]
    final = pruned
    settings = recipe.recover
    if settings.kind != "none":
        recovered = final = digest("recover", pruned, settings.model_dump())
        subjects["recovered"] = lambda: folder(recovered)
        stages += [
            Stage("recover", recovered, lambda: recover(bench, recovered, folder(pruned), settings)),
            measuring("recovered", recovered, subjects["recovered"]),
        ]
    if recipe.evaluate.speed:
        key = digest("benchmark", bench.dense_digest, final, machine_type(), recipe.resources.model_dump(), code)
        stages.append(
            Stage("benchmark", key, lambda: benchmark(bench, {name: place() for name, place in subjects.items()}))
        )
    return stages


def _once(stage: Stage, bench: Workbench, owner: str) -> Generator[Event, None, tuple[StageResult, bool]]:
    """The stage's result, found under its key or computed and published by one of many that want it."""
    store = bench.store
    waiting = False
    while (found := store.find(stage.key)) is None and not store.claim(stage.key, owner, CLAIM_SECONDS):
        if not waiting:
            yield Notice(message=f"waiting for another attempt that computes the same {stage.name} stage")
            waiting = True
        time.sleep(1.0)  # an artifact store has no events to wait for
    if found is not None:
        return found, True
    with _claim_kept(store, stage.key, owner):
        if (found := store.find(stage.key)) is not None:  # published between our look and our claim
            return found, True
        started = time.monotonic()
        outcome = yield from stage.run()
        result = StageResult(
            stage=stage.name,
            key=stage.key,
            files=_stored(bench, outcome.folder),
            measurements=outcome.measurements,
            seconds=time.monotonic() - started,
        )
        store.publish(result)
        store.drop_checkpoint(stage.key)
    return result, False


@contextmanager
def _claim_kept(store: ArtifactStore, key: str, owner: str) -> Iterator[None]:
    """Prolong one's claim while the block runs, however long it is silent; give it up at its end."""
    done = threading.Event()

    def prolong() -> None:
        while not done.wait(CLAIM_SECONDS / 3):
            with suppress(Transient):  # at worst another computes the same
                store.claim(key, owner, CLAIM_SECONDS)

    keeper = threading.Thread(target=prolong, name=f"claim {key[:8]}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        store.release(key, owner)


def _stored(bench: Workbench, folder: Path | None) -> list[StoredFile]:
    """The folder's files, put into the store."""
    if folder is None:
        return []
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [bench.store.put(file, file.relative_to(folder).as_posix()) for file in files]


def _artifact(bench: Workbench, finished: dict[str, StageResult], results: Results) -> list[StoredFile]:
    """The job's files: the final model's, already in the store, and its card."""
    final = [result for result in finished.values() if result.stage in ("prune", "recover")][-1]
    card = bench.workspace / "README.md"
    card.write_text(model_card(bench.recipe, results, bench.dense_digest), encoding="utf-8")
    files = [stored.model_copy(update={"path": f"model/{stored.path}"}) for stored in final.files]
    return [*files, bench.store.put(card, "model/README.md")]
