"""Zero-shot tasks as a recipe names them, and the five that the paper's tables average."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from workers.contracts.base import Contract

PAPER_ZERO_SHOT = "paper_zero_shot"
"""Stands for the five tasks of the paper's tables, 0-shot, and for their mean."""

PAPER_METRICS = {
    "piqa": "acc_norm",
    "winogrande": "acc",
    "hellaswag": "acc_norm",
    "arc_easy": "acc_norm",
    "arc_challenge": "acc_norm",
}
"""The five tasks, and which of lm-eval's metrics is reported of each (METHOD §7)."""


class TaskSettings(Contract):
    """A task by its name in lm-eval, with settings of its own."""

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}$", examples=["piqa", "paper_zero_shot"])
    ]
    """A task, group or tag of lm-eval's registry, or `paper_zero_shot` for PIQA, WinoGrande, HellaSwag, ARC-e, ARC-c
    and their mean. The five are read from local files where there are some; all else comes from the hub. Of a group or
    tag each task is reported by itself."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """The first so many rows only; `null` takes `evaluate.tasks_limit`."""
    num_fewshot: Annotated[int, Field(ge=0, le=100)] | None = None
    """Solved examples before each question; `null` takes `evaluate.tasks_num_fewshot`."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


@dataclass(frozen=True)
class WantedTask:
    """A task that is to be run, groups of ours taken apart and defaults filled in."""

    name: str
    limit: int | None
    """The first so many rows; None is all."""
    num_fewshot: int | None
    """None is what the task itself says, which is 0 for the five of the paper."""
    field: str
    """Where the recipe names it."""

    @property
    def metric(self) -> str | None:
        """The metric that stands for the task; None where the task itself decides."""
        return PAPER_METRICS.get(self.name)


def wanted_tasks(tasks: Iterable[TaskSettings], limit: int | None, num_fewshot: int | None) -> tuple[WantedTask, ...]:
    """The tasks in order, each once.

    Args:
        limit: for those that name none.
        num_fewshot: for those that name none; `paper_zero_shot` is 0-shot whatever this says.
    Raises:
        ValueError: a task is asked for twice with different settings, or `paper_zero_shot` with examples.
    """
    wanted: dict[str, WantedTask] = {}
    for place, task in enumerate(tasks):
        is_group = task.name == PAPER_ZERO_SHOT
        if is_group and task.num_fewshot:
            raise ValueError(f"{PAPER_ZERO_SHOT} is 0-shot; name its five tasks one by one to give them examples")
        shots = 0 if is_group else num_fewshot if task.num_fewshot is None else task.num_fewshot
        for name in PAPER_METRICS if is_group else (task.name,):
            if name in PAPER_METRICS and shots is None:
                shots = 0
            one = WantedTask(name, task.limit or limit, shots, f"evaluate.tasks.{place}")
            known = wanted.setdefault(name, one)
            if (known.limit, known.num_fewshot) != (one.limit, one.num_fewshot):
                raise ValueError(f"task {name!r} is asked for twice, with different limits or examples; keep one")
    return tuple(wanted.values())


class TaskFigure(Contract):
    """What one model made of one task."""

    metric: str
    """Which of the task's metrics `value` is: for the paper's five acc_norm, for WinoGrande acc."""
    value: float | None
    """A share of 1 for accuracies; null if it is not a finite number."""
    stderr: float | None = None
    """Standard error of `value` over the rows; that of a mean of tasks takes them as independent."""
    n: int
    """Rows evaluated, the first of the task's."""
    num_fewshot: int
    """Solved examples before each question."""
    truncated: int = 0
    """Requests that were longer than the model's context and lost their beginning; of a group's tasks all together."""
    metrics: dict[str, float] = {}
    """All that lm-eval tells of the task."""
    version: str
    """Of lm-eval and of the task's definition."""
    source: str
    """Where the rows come from."""
    rows_digest: str | None = None
    """Digest of all rows, examples too, and of lm-eval's version; null for a mean."""


def mean_figure(figures: dict[str, TaskFigure]) -> TaskFigure:
    """The mean of the paper's five, each task counting alike; its standard error is √Σs² / 5 (METHOD §7).

    Args:
        figures: those of the five, by name.
    """
    five = [figures[name] for name in PAPER_METRICS]
    values = [figure.value for figure in five if figure.value is not None]
    errors = [figure.stderr for figure in five if figure.stderr is not None]
    return TaskFigure(
        metric="mean",
        value=sum(values) / len(five) if len(values) == len(five) else None,
        stderr=math.hypot(*errors) / len(five) if len(errors) == len(five) else None,
        n=sum(figure.n for figure in five),
        num_fewshot=0,
        truncated=sum(figure.truncated for figure in five),
        version=five[0].version.partition(",")[0],
        source=", ".join(PAPER_METRICS),
    )
