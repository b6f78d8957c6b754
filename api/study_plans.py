"""The plan of a study: that of each row, and their sum, in which a stage that rows share counts once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.client import Client
from api.display import duration, gib
from api.failures import Invalid
from api.plans import Plan, PlannedStage
from api.recipes import with_absolute_paths
from api.schemas import Answer
from workers.contracts.study import Row


class PlannedRow(Answer):
    """A row of the study, and what it would do."""

    name: str
    plan: Plan | None
    """Null for a row that would be refused."""
    error: str | None = None
    """Why it would be refused."""


class StudyPlan(Answer):
    """What all rows of a study would do, one after the other."""

    object: Literal["study_plan"] = "study_plan"
    fits: bool | None
    """Whether every row may be submitted; null if that of one cannot be known, and none is refused."""
    seconds: float | None
    """Predicted time of all stages that are to be computed, each once; null where that of one is not known."""
    gpu_hours: float | None
    """GPUs times predicted hours, each stage once."""
    stages: int
    """Stages of all rows."""
    shared: int
    """Of these, stages that an earlier row computes."""
    known: int
    """Of these, stages whose results are there already."""
    notes: list[str] = []
    """What the rows are, where they are not all that will run."""
    rows: list[PlannedRow]


def plan_study(client: Client, rows: Iterable[Row], notes: Sequence[str] = ()) -> StudyPlan:
    """Ask for the plan of each row. Nothing is queued."""
    planned = [_planned(client, row) for row in rows]
    plans = [row.plan for row in planned if row.plan]
    stages = [(stage, plan) for plan in plans for stage in plan.stages]
    to_compute = list(_each_once(stages))
    known = sum(stage.known is True for stage, _ in stages)
    return StudyPlan(
        fits=_fit(planned),
        seconds=_sum([stage.seconds for stage, _ in to_compute]),
        gpu_hours=_sum([_gpu_hours(stage, plan) for stage, plan in to_compute]),
        stages=len(stages),
        shared=len(stages) - known - len(to_compute),
        known=known,
        notes=list(notes),
        rows=planned,
    )


def show_study_plan(console: Console, told: StudyPlan) -> None:
    """A line a row, the sum, and what is to be said of them."""
    table = Table(title="Plan", title_justify="left")
    table.add_column("row")
    for title in ("stages to compute", "predicted time", "GPU-hours", "parameters", "peak memory"):
        table.add_column(title, justify="right")
    for row in told.rows:
        table.add_row(escape(row.name), *_cells(row))
    console.print(table)
    computed = told.stages - told.shared - told.known
    console.print(
        f"{told.stages} stages: {computed} to compute, {told.shared} shared with an earlier row, {told.known} known",
        highlight=False,
    )
    if told.seconds is not None and told.gpu_hours is not None:
        console.print(f"time left: {duration(told.seconds)}   GPU-hours: {told.gpu_hours:.3g}", highlight=False)
    else:
        console.print("time left: not known; some stages could not be predicted", highlight=False)
    for row in told.rows:
        if refusal := row.error or (row.plan and row.plan.refusal):
            console.print(f"[red]{escape(row.name)}: {escape(refusal)}[/]", highlight=False)
    notes = [note for row in told.rows if row.plan for note in row.plan.notes]
    for note in dict.fromkeys([*told.notes, *notes]):
        console.print(f"[dim]{escape(note)}[/]", highlight=False)


def _planned(client: Client, row: Row) -> PlannedRow:
    try:
        return PlannedRow(name=row.name, plan=client.plan(with_absolute_paths(row.recipe.model_dump(mode="json"))))
    except Invalid as refusal:
        return PlannedRow(name=row.name, plan=None, error=str(refusal))


def _each_once(stages: Iterable[tuple[PlannedStage, Plan]]) -> Iterable[tuple[PlannedStage, Plan]]:
    """What is to be computed; of stages with one key the first. Without a key none is known to be shared."""
    seen: set[str] = set()
    for stage, plan in stages:
        if stage.known or stage.key in seen:
            continue
        if stage.key is not None:
            seen.add(stage.key)
        yield stage, plan


def _gpu_hours(stage: PlannedStage, plan: Plan) -> float | None:
    gpus: int = plan.recipe["resources"]["gpus"]
    return None if stage.seconds is None else gpus * stage.seconds / 3600


def _fit(rows: Sequence[PlannedRow]) -> bool | None:
    fits = [row.plan.fits if row.plan else False for row in rows]
    return False if False in fits else None if None in fits else True


def _sum(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _cells(row: PlannedRow) -> list[str]:
    plan = row.plan
    if plan is None:
        return ["refused", "", "", "", ""]
    last = plan.models.get("recovered") or plan.models.get("pruned")
    return [
        str(sum(not stage.known for stage in plan.stages)),
        "?" if plan.seconds is None else duration(plan.seconds),
        "?" if plan.gpu_hours is None else f"{plan.gpu_hours:.3g}",
        f"{last.parameters:,}" if last else "?",
        "?" if plan.peak_bytes is None else gib(plan.peak_bytes),
    ]
