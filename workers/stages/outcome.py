"""What a stage returns, and how training steps become events."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from workers.contracts.events import CheckpointLoaded, CheckpointSaved, Event, Progress
from workers.contracts.results import Measurement, StageName, Subject
from workers.training.loop import Step


@dataclass(frozen=True)
class Outcome:
    """The files a stage left in `folder` (none if it only measured), and its figures."""

    folder: Path | None = None
    measurements: dict[Subject, Measurement] = field(default_factory=dict)


StageRun = Generator[Event, None, Outcome]
"""Events while it works; at the end the outcome."""


class Meter(Protocol):
    """What measures one model, part by part: each text or task has a result of its own, found again by itself."""

    def measure(self, part: str) -> StageRun:
        """Measure a part, by its name in the plan. The model is loaded for the first part that wants it."""
        ...

    def together(self, found: Mapping[str, Measurement]) -> Measurement:
        """All parts as one measurement, named as this recipe names them.

        Args:
            found: by part; measured just now, or by another job whose recipe may name a text otherwise.
        """
        ...


def training_events(stage: StageName, steps: Iterable[Step]) -> Iterator[Event]:
    """The events of a training run."""
    for step in steps:
        if step.resumed:
            yield CheckpointLoaded(stage=stage, step=step.step)
        if step.metrics:
            yield Progress(stage=stage, step=step.step, steps=step.steps, metrics=step.metrics)
        if step.checkpointed:
            yield CheckpointSaved(stage=stage, step=step.step)
