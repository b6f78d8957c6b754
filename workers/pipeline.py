"""The story of an attempt on one page: plan the stages, then run each, or find its result, yielding events.

A stage's key is the digest of all that decides its result, known before anything runs. A result that exists under its
key is not computed again, so a retry, a repeated job and a trial that shares a prefix all start where they differ.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
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
from workers.contracts.results import (
    Results,
    StageMemory,
    StageName,
    StageResult,
    StoredFile,
    Subject,
    together,
)
from workers.contracts.store import ArtifactStore
from workers.drawing import drawn
from workers.errors import Transient
from workers.high_water import measured_peak
from workers.licence import licence_of
from workers.model_card import model_card
from workers.planning.plan import stages_of
from workers.planning.room import predicted_bytes, require_room
from workers.stages.basis import basis
from workers.stages.benchmark import benchmark
from workers.stages.covariance import covariance
from workers.stages.evaluate import Evaluation
from workers.stages.outcome import Meter, StageRun
from workers.stages.prune import prune
from workers.stages.record import RECORDS
from workers.stages.recover import recover
from workers.stages.regularize import regularize
from workers.stages.rungs import told_again
from workers.stages.zero_shot import Examination
from workers.workbench import Workbench

CLAIM_SECONDS = 30.0
"""How long a claim on a stage stands unless it is prolonged; while the stage is computed, it is."""

METERS: dict[StageName, Callable[[Workbench, Subject, Callable[[], Path]], Meter]] = {
    "evaluate": Evaluation,
    "zero_shot": Examination,
}
"""What measures one of the models, part by part, by the name of its stage."""


@dataclass(frozen=True)
class Stage:
    """One step of the plan, or one part of an evaluation: found under its key, or run."""

    name: StageName
    key: str
    run: Callable[[], StageRun]
    subject: Subject | None = None
    part: str | None = None
    """What is measured, of an evaluation's part."""

    @property
    def result_keys(self) -> list[str]:
        """Under which its results are found."""
        return [self.key]


@dataclass(frozen=True)
class Evaluating:
    """One step of the plan that measures a model: each of its parts is found or run, and claimed, by itself."""

    name: StageName
    key: str
    meter: Callable[[], Meter]
    """Made when the stage begins, and the model that it loads gone when it ends."""
    subject: Subject
    parts: dict[str, str]
    """Their keys, by their names in this recipe."""

    @property
    def result_keys(self) -> list[str]:
        """See `Stage.result_keys`."""
        return list(self.parts.values())


def run(
    recipe: Recipe, store: ArtifactStore, workspace: Path, places: Places, owner: str, rungs: Sequence[float] = ()
) -> Iterator[Event]:
    """Run a recipe to its end. The last event is `Succeeded`; the model is in the store as the artifact `model/`.

    Args:
        workspace: an empty folder for working files; the caller removes it.
        owner: who claims a stage's computation; attempts at one job share it.
        rungs: fractions of the recipe's training steps at which `cut_loss` is told (see `workers.stages.rungs`). They
            decide no result.
    Raises:
        RecipeError, OutOfMemory, Transient: see `workers.errors`; torch's and Python's own memory errors pass through.
    """
    bench = Workbench(recipe, store, workspace, places, rungs)
    finished: dict[str, StageResult] = {}
    stages = plan(bench, finished)
    results = Results(sequence_length=bench.sequence_length)
    if recipe.data.sequence_length is None:
        yield Notice(message=f"training sequences of {bench.sequence_length} tokens, as suits the model")
    missing = [stage for stage in stages if any(store.find(key) is None for key in stage.result_keys)]
    yield from _early_checks(bench, missing)
    for index, stage in enumerate(stages):
        yield StageStarted(stage=stage.name, subject=stage.subject, key=stage.key, index=index, count=len(stages))
        started = time.monotonic()
        result, reused = yield from _result_of(stage, bench, owner)
        finished[stage.key] = result
        if reused:
            yield from told_again(bench, stage.name, result)
        if result.memory:
            results = results.with_memory(stage.name, result.memory)
        for subject, measurement in result.measurements.items():
            results = results.with_measurement(subject, measurement)
            yield Measured(subject=subject, measurement=measurement)
        seconds = time.monotonic() - started
        yield StageFinished(
            stage=stage.name,
            subject=stage.subject,
            key=stage.key,
            seconds=seconds,
            reused=reused,
            cost_seconds=result.seconds,
        )
    yield ArtifactStored(files=_artifact(bench, finished, results))
    yield Succeeded(results=results)


def _early_checks(bench: Workbench, missing: list[Stage | Evaluating]) -> Iterator[Event]:
    """What would end the job anyway is found out before anything is computed.

    Raises:
        OutOfMemory: a stage needs more memory than the device has.
        RecipeError: the corpus is too small.
    """
    try:
        require_room(bench.recipe, bench.dense_folder, bench.device, [(stage.name, stage.subject) for stage in missing])
    except (AttributeError, LookupError) as error:
        yield Notice(message=f"whether the job fits in memory is not known beforehand: {error}")
    if any(stage.name in ("covariance", "basis", "regularize", "recover") for stage in missing):
        _ = bench.sequences
        if bench.rungs and not bench.has_validation_sequences:
            yield Notice(
                message="data.samples takes the whole corpus, so cut_loss is measured on text that is trained on, the "
                "end of the recover share; with a few samples fewer it would be on other text"
            )


def plan(bench: Workbench, finished: dict[str, StageResult]) -> list[Stage | Evaluating]:
    """The stages of a recipe, in order, ready to run. `finished` fills as they end: later stages read from it."""
    recipe = bench.recipe
    planned = stages_of(recipe, bench.sources)
    keys = {stage.name: stage.key for stage in planned}

    def left_by(name: StageName) -> Callable[[], Path]:
        return lambda: bench.folder_of(finished[keys[name] or ""])

    folders: dict[Subject, Callable[[], Path]] = {"dense": lambda: bench.dense_folder, "pruned": left_by("prune")}
    folders |= {"recovered": left_by("recover")} if "recover" in keys else {}

    def if_planned(name: StageName) -> Path | None:
        return left_by(name)() if name in keys else None

    starts: dict[StageName, Callable[[str], StageRun]] = {
        "covariance": lambda key: covariance(bench, key),
        "basis": lambda key: basis(bench, key, if_planned("covariance")),
        "regularize": lambda key: regularize(bench, key, if_planned("basis")),
        "prune": lambda key: prune(bench, key, left_by("regularize")(), if_planned("basis")),
        "recover": lambda key: recover(bench, key, folders["pruned"]()),
        "benchmark": lambda _key: benchmark(bench, {each: folder() for each, folder in folders.items()}),
    }
    stages: list[Stage | Evaluating] = []
    for stage in planned:
        name, key, subject = stage.name, _sure(stage.key), stage.subject
        if subject is None:
            stages.append(Stage(name, key, partial(starts[name], key)))
        else:
            meter = partial(METERS[name], bench, subject, folders[subject])
            stages.append(Evaluating(name, key, meter, subject, {part.name: _sure(part.key) for part in stage.parts}))
    return stages


def _sure(key: str | None) -> str:
    """A planned key, which is known here: the workbench knows every source."""
    assert key is not None  # noqa: S101
    return key


def _result_of(
    stage: Stage | Evaluating, bench: Workbench, owner: str
) -> Generator[Event, None, tuple[StageResult, bool]]:
    """The stage's result, and whether it was found; of an evaluation whether all of its parts were."""
    if isinstance(stage, Stage):
        return (yield from _once(stage, bench, owner))
    meter, found, all_reused = stage.meter(), dict[str, StageResult](), True
    for part, key in stage.parts.items():
        measuring = Stage(stage.name, key, partial(meter.measure, part), stage.subject, part)
        found[part], reused = yield from _once(measuring, bench, owner)
        all_reused = all_reused and reused
    each_once = list({result.key: result for result in found.values()}.values())
    measurement = meter.together({part: result.measurements[stage.subject] for part, result in found.items()})
    joined = StageResult(
        stage=stage.name,
        key=stage.key,
        measurements={stage.subject: measurement},
        seconds=sum(result.seconds for result in each_once),
        memory=together(result.memory for result in each_once),
    )
    return joined, all_reused


def _once(stage: Stage, bench: Workbench, owner: str) -> Generator[Event, None, tuple[StageResult, bool]]:
    """The stage's result, found under its key or computed and published by one of many that want it."""
    store = bench.store
    waiting = False
    while (found := store.find(stage.key)) is None and not store.claim(stage.key, owner, CLAIM_SECONDS):
        if not waiting:
            work = f"{stage.name} stage" if stage.part is None else f"{stage.name} stage ({stage.part})"
            yield Notice(message=f"waiting for another attempt that computes the same {work}")
            waiting = True
        time.sleep(1.0)  # an artifact store has no events to wait for
    if found is not None:
        return found, True
    with _claim_kept(store, stage.key, owner):
        if (found := store.find(stage.key)) is not None:  # published between our look and our claim
            return found, True
        started = time.monotonic()
        with measured_peak(bench.device) as peak:
            outcome = yield from stage.run()
        result = StageResult(
            stage=stage.name,
            key=stage.key,
            files=_stored(bench, outcome.folder),
            measurements=outcome.measurements,
            seconds=time.monotonic() - started,
            memory=StageMemory(
                predicted_bytes=predicted_bytes(bench.recipe, bench.dense_folder, (stage.name, stage.subject)),
                measured_bytes=peak.bytes,
                before_bytes=peak.before_bytes,
            ),
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
    """The job's files: the final model's and what training recorded, already in the store, its card, and figures."""
    final = [result for result in finished.values() if result.stage in ("prune", "recover")][-1]
    card = bench.workspace / "README.md"
    modelling_file = next((stored.path for stored in final.files if stored.path.startswith("modeling_")), None)
    licence = licence_of(bench.dense_folder)
    text = model_card(bench.recipe, results, bench.dense_digest, licence, modelling_file)
    card.write_text(text, encoding="utf-8")
    left = [stored for result in finished.values() for stored in result.files]
    records = [stored for stored in left if stored.path.startswith(f"{RECORDS}/")]
    weights = [stored for stored in final.files if stored not in records]
    files = [stored.model_copy(update={"path": f"model/{stored.path}"}) for stored in weights]
    return [*files, bench.store.put(card, "model/README.md"), *records, *drawn(records, bench.store, bench.workspace)]
