"""What a training stage reported at its steps, kept with its result: figures need no database to be drawn again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from workers.contracts.records import TrainingRecord
from workers.contracts.results import StageName
from workers.training.loop import Point, Step

RECORDS = "records"
"""The folder, in a stage's own and in the job's artifact."""

CUT_LOSS, TRAINING_FRACTION = "cut_loss", "training_fraction"
"""Figures of a rung, see `workers.stages.rungs`."""

NOT_RECORDED = ("seconds", TRAINING_FRACTION)
"""Figures that would make the records of equal runs differ: what the machine decides, and the recover settings."""

MOST_POINTS = 2000
"""Points kept of a stage. The training loop reports fewer; a method that trains in its own way may report more."""


class Record:
    """Listens to a stage's steps. A resumed run's first step brings along what was reported before it."""

    def __init__(self, stage: StageName) -> None:
        self._stage = stage
        self._steps = 0
        self._points: list[Point] = []

    def following(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps, each noted as it passes."""
        for step in steps:
            self._steps = step.steps
            if step.resumed:
                self._points = list(step.earlier)
            if figures := {name: value for name, value in step.metrics.items() if name not in NOT_RECORDED}:
                self._note(step.step, figures)
            yield step

    def _note(self, step: int, figures: dict[str, float]) -> None:
        """Points stand in the order of their steps; what a rung adds joins what the step itself reported."""
        place = bisect_right(self._points, step, key=lambda point: point[0])
        if CUT_LOSS in figures and place > 0 and self._points[place - 1][0] == step:
            self._points[place - 1] = (step, {**self._points[place - 1][1], **figures})
        else:
            self._points.insert(place, (step, figures))

    def write(self, folder: Path) -> None:
        """Write `records/<stage>.json` (`TrainingRecord`) into the stage's folder, unless nothing was reported."""
        if not self._points:
            return
        points = thinned(self._points, MOST_POINTS)
        names = dict.fromkeys(name for _, figures in points for name in figures)
        record = TrainingRecord(
            stage=self._stage,
            steps=self._steps,
            step=[step for step, _ in points],
            metrics={name: [figures.get(name) for _, figures in points] for name in names},
        )
        (folder / RECORDS).mkdir(exist_ok=True)
        (folder / RECORDS / f"{self._stage}.json").write_text(record.model_dump_json(), encoding="utf-8")


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many of the points, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    last = len(points) - 1
    return [points[round(place * last / (most - 1))] for place in range(most)]
