"""What a job would do, told before it is queued: stages, what is known already, memory, time, sizes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from service import pace
from service.errors import InvalidRecipe
from service.screening import blaming
from service.settings import Settings
from service.sources import Seen, look
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageName, StageResult, Subject
from workers.contracts.store import KeepsUploads
from workers.errors import Transient
from workers.planning import forecast, needs
from workers.planning.peaks import Rules
from workers.planning.plan import PlannedStage, Sources, stages_of


class Finished(KeepsUploads, Protocol):
    """What a plan needs of an artifact store."""

    def find(self, key: str) -> StageResult | None:
        """The result of the stage with this key."""
        ...


@dataclass(frozen=True)
class Part:
    """What an evaluation measures by itself: the sizes, a text or a task."""

    name: str
    key: str | None
    known: bool | None
    """Whether its result is in the store."""


@dataclass(frozen=True)
class Stage:
    """One step of a plan. None is what cannot be known where the plan is made."""

    stage: StageName
    subject: Subject | None
    key: str | None
    known: bool | None
    """Whether its result is in the store, so that nothing is computed; of an evaluation those of all parts."""
    seconds: float | None
    """0 for a stage that is known."""
    basis: pace.Basis | None
    """What the seconds rest on."""
    peak_bytes: int | None
    """Of the memory of the device that computes."""
    memory: Mapping[str, int]
    """What the peak is made of, in bytes."""
    parts: Sequence[Part] = ()
    """Of an evaluation; other stages have none."""


@dataclass(frozen=True)
class Plan:
    """What a job would do."""

    fits: bool | None
    """Whether all that is to be computed fits; None if the limit or the need is not known."""
    refusal: str | None
    """Why it does not, and what to change."""
    models: dict[Subject, forecast.Size]
    """Empty if the model is not on this machine."""
    seconds: float | None
    """Of the stages that are to be computed."""
    gpu_hours: float | None
    peak_bytes: int | None
    """The largest of the stages that are to be computed."""
    limit_bytes: int | None
    """Memory of the device, as the settings tell it."""
    stages: list[Stage]
    recipe: dict[str, Any]
    notes: list[str]


def plan(recipe: Recipe, store: Finished, speed: pace.Pace, settings: Settings) -> Plan:
    """The plan of a recipe that was screened.

    Args:
        speed: of the kind of device that the recipe asks for.
    Raises:
        InvalidRecipe: a source that is on this machine cannot be used.
    """
    seen = look(recipe, settings, store)
    notes = list(seen.notes)
    rules = _rules(recipe, seen.folder)
    stages = [
        _stage(each, recipe, seen, speed, rules, [_is_known(each, key, store, notes) for key in each.result_keys])
        for each in stages_of(recipe, seen.sources)
    ]
    seconds = _total([stage.seconds for stage in stages])
    limit_bytes = limit_of(recipe, settings)
    left = [stage for stage in stages if not stage.known]
    refusal = _refusal(rules, [(stage.stage, stage.subject) for stage in left], limit_bytes)
    is_open = limit_bytes is None or (rules is None and bool(left))
    return Plan(
        fits=False if refusal else None if is_open else True,
        refusal=refusal,
        models=seen.sizes or {},
        seconds=seconds,
        gpu_hours=None if seconds is None else recipe.resources.gpus * seconds / 3600,
        peak_bytes=max((stage.peak_bytes or 0 for stage in left), default=0) if rules or not left else None,
        limit_bytes=limit_bytes,
        stages=stages,
        recipe=recipe.model_dump(mode="json"),
        notes=notes,
    )


def refuse_what_cannot_fit(recipe: Recipe, store: Finished, settings: Settings) -> None:
    """Let a screened recipe pass unless a stage that is to be computed needs more memory than the settings allow.

    Raises:
        InvalidRecipe: it does not fit; the message has the figures and what to change.
    """
    limit_bytes = limit_of(recipe, settings)
    folder = settings.places().model_folder(recipe.model.source, recipe.model.revision)
    stages = [(stage.name, stage.subject) for stage in stages_of(recipe, Sources.unknown())]
    if not _refusal(_rules(recipe, folder), stages, limit_bytes):  # told by the sizes alone, which are read at once
        return
    told = plan(recipe, store, pace.Pace(settings, {}), settings)  # a stage that is known need not fit
    if told.refusal:
        raise InvalidRecipe("resources", told.refusal)


def limit_of(recipe: Recipe, settings: Settings) -> int | None:
    """Memory of the device that the recipe computes on, in bytes; None if the settings do not tell."""
    gib = settings.gpu_memory_gib if recipe.resources.gpus else settings.node_memory_gib
    return None if gib is None else int(gib * needs.GIB)


def _total(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _refusal(rules: Rules | None, stages: list[needs.Stage], limit_bytes: int | None) -> str | None:
    """None too if the need or the limit is not known."""
    return None if rules is None or limit_bytes is None else needs.refusal(rules, stages, limit_bytes)


def _rules(recipe: Recipe, folder: Path | None) -> Rules | None:
    """None if the model is not here, or its tensors are not to be understood."""
    if folder is None:
        return None
    with blaming(), suppress(LookupError):
        return needs.rules_for(recipe, folder)
    return None


def _stage(
    stage: PlannedStage,
    recipe: Recipe,
    seen: Seen,
    speed: pace.Pace,
    rules: Rules | None,
    known: Sequence[bool | None],
) -> Stage:
    """`known`: for each of the stage's result keys, whether there is a result."""
    is_known = None if None in known else all(known)
    told = list(zip(stage.parts, known, strict=True)) if stage.parts else []
    parts = [Part(part.name, part.key, there) for part, there in told]
    left = replace(stage, parts=tuple(part for part, there in told if not there))
    seconds, basis = (0.0, None) if is_known else _time(left, recipe, seen, speed)
    items = rules.items((stage.name, stage.subject)) if rules else {}
    peak_bytes = needs.peak_bytes(items) if rules else None
    return Stage(stage.name, stage.subject, stage.key, is_known, seconds, basis, peak_bytes, items, parts)


def _is_known(stage: PlannedStage, key: str | None, store: Finished, notes: list[str]) -> bool | None:
    if key is None:
        if stage.name == "benchmark":
            notes.append("benchmark: whether it is known depends on the machine that will run it")
        return None
    try:
        return store.find(key) is not None
    except Transient as error:
        note = f"{stage.name}: the artifact store does not answer: {error}"
        if note not in notes:
            notes.append(note)
        return None


def _time(stage: PlannedStage, recipe: Recipe, seen: Seen, speed: pace.Pace) -> tuple[float | None, pace.Basis | None]:
    tokens = {text: count for text, count in seen.measured_tokens.items() if count is not None}
    is_open = stage.name == "evaluate" and any(seen.measured_tokens.get(part.name, 0) is None for part in stage.parts)
    if seen.sizes is None or is_open:
        return None, None
    effort = forecast.effort_of(stage, recipe, seen.sizes, seen.sequence_length, tokens)
    estimate = speed.estimate(stage, recipe, effort)
    return estimate.seconds, estimate.basis
