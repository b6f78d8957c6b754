"""How long stages take: a rule of thumb, put right by what stages of finished jobs took on the same kind of device."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.database.tables import Event, Job
from service.domain.job import Status
from service.settings import Settings
from workers.contracts.events import StageFinished
from workers.contracts.recipe import LONGEST_SEQUENCE, Recipe
from workers.contracts.results import Measurement, Results, Subject
from workers.planning.forecast import Effort, Size, Sizes, effort_of
from workers.planning.plan import PlannedStage, Sources, device_kind, stages_of

JOBS = 50
"""Finished jobs looked at, newest first."""

NEAREST = 5
"""Of the measured stages those nearest in size are heeded: small models use a device less well than large ones."""

Basis = Literal["measured", "default"]


@dataclass(frozen=True)
class Estimate:
    """A stage's predicted time."""

    seconds: float
    basis: Basis
    """`measured`: from such stages of finished jobs; `default`: from the throughput that the settings assume."""


class Pace:
    """What is known of the speed of one kind of device."""

    def __init__(self, settings: Settings, measured: dict[str, list[tuple[float, float]]]) -> None:
        """`measured`: by stage, the seconds of the rule of thumb and those it took."""
        self._settings, self._measured = settings, measured

    def estimate(self, stage: PlannedStage, recipe: Recipe, effort: Effort) -> Estimate:
        """The stage's time: by the rule, times what the nearest measured stages took in proportion to it."""
        rule = rule_seconds(recipe, effort, self._settings)
        runs = self._measured.get(stage.name, [])
        nearest = sorted(runs, key=lambda run: abs(math.log(run[0] / rule)))[:NEAREST]
        if not nearest:
            return Estimate(rule, "default")
        return Estimate(rule * statistics.median(took / by_rule for by_rule, took in nearest), "measured")


def rule_seconds(recipe: Recipe, effort: Effort, settings: Settings) -> float:
    """Arithmetic at the assumed throughput, then reading and writing; never zero."""
    cores = settings.core_gigaflops * 1e9 * recipe.resources.cpus
    throughput = settings.gpu_teraflops * 1e12 if recipe.resources.gpus else cores
    moving_seconds = effort.moved_bytes / (settings.disk_megabytes_per_second * 1e6)
    return max(1e-6, effort.operations / throughput + moving_seconds)


def of_device(session: Session, kind: str, settings: Settings) -> Pace:
    """What the newest finished jobs tell of this kind of device (`cuda` or `cpu`)."""
    undisturbed = (Job.kind == "job", Job.status == Status.SUCCEEDED.value, Job.attempts == 1)  # nothing was resumed
    newest = select(Job).where(*undisturbed)
    measured: dict[str, list[tuple[float, float]]] = {}
    for job in session.scalars(newest.order_by(Job.created_at.desc(), Job.id.desc()).limit(JOBS)):
        for recipe, stage, effort, seconds in _runs(session, job):
            if device_kind(recipe) == kind:
                measured.setdefault(stage.name, []).append((rule_seconds(recipe, effort, settings), seconds))
    return Pace(settings, measured)


def _runs(session: Session, job: Job) -> Iterator[tuple[Recipe, PlannedStage, Effort, float]]:
    """The job's stages that were computed, with what they asked for and the seconds they took."""
    try:
        recipe, results = Recipe.model_validate(job.recipe), Results.model_validate(job.results or {})
        finished = select(Event.body).where(Event.job_id == job.id, Event.type == "stage_finished")
        told = [StageFinished.model_validate(body) for body in session.scalars(finished)]
    except ValidationError:
        return  # written by another version
    sizes = _sizes(recipe, results)
    if sizes is None:
        return
    stages = {(stage.name, stage.subject): stage for stage in stages_of(recipe, Sources.unknown())}
    length = results.sequence_length or recipe.data.sequence_length or LONGEST_SEQUENCE
    for event in told:
        stage = stages.get((event.stage, event.subject))
        seconds = event.cost_seconds or event.seconds  # of all parts of an evaluation, though some may have been found
        if stage is not None and not event.reused and seconds > 0:
            yield recipe, stage, effort_of(stage, recipe, sizes, length, _tokens(results)), seconds


def _sizes(recipe: Recipe, results: Results) -> Sizes | None:
    """None where an evaluation is missing."""
    measured: dict[Subject, Measurement | None] = {"dense": results.dense, "pruned": results.pruned}
    if recipe.recover.kind != "none":
        measured["recovered"] = results.recovered
    sizes: Sizes = {}
    for subject, measurement in measured.items():
        if measurement is None or measurement.parameters is None or measurement.hidden_size is None:
            return None
        sizes[subject] = Size(measurement.parameters, measurement.hidden_size)
    return sizes


def _tokens(results: Results) -> dict[str, int]:
    """Tokens on which perplexity was measured, on each of the models, by text."""
    protocols = (results.dense.perplexity_protocol if results.dense else None) or {}
    return {text: protocol.windows * protocol.sequence_length for text, protocol in protocols.items()}
