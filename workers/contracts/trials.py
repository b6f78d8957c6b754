"""The trials of a search: what its engine reports of them, and what a later attempt is told of earlier ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from workers.contracts.base import Contract
from workers.contracts.results import Results, StageName, StoredFile
from workers.contracts.search import Point

Decision = Literal["go_on", "stop"]

TrialEnding = Literal["succeeded", "failed", "stopped"]
"""`stopped`: ended before its last stage, by the scheduler or by the end of the budget."""

TrialNumber = Annotated[int, Field(ge=1)]
"""From 1, in the order in which trials were proposed."""


class TrialProposed(Contract):
    """A trial was chosen. It is begun, again by each attempt of the search, until its end is recorded."""

    type: Literal["trial_proposed"] = "trial_proposed"
    trial: TrialNumber
    point: Point
    """What it changes in the base recipe."""


class TrialProgressed(Contract):
    """Where a trial is; told every few seconds, for people to follow."""

    type: Literal["trial_progressed"] = "trial_progressed"
    trial: TrialNumber
    stage: StageName
    step: int = 0
    """Steps of the stage done."""
    steps: int = 0
    """Steps of the stage in all."""
    fraction: float
    """Of the trial's stages that train and measure, by count; for a progress bar."""
    metrics: dict[str, float | None] = {}
    """Figures of the newest step; null is no finite number."""
    seconds: float = 0.0
    """Under way for so long, all tries together."""
    gpu_seconds: float = 0.0
    """`seconds` times its GPUs."""


class TrialReported(Contract):
    """A trial came to a rung. Report and decision are one fact, so that neither is ever recorded without the other."""

    type: Literal["trial_reported"] = "trial_reported"
    trial: TrialNumber
    rung: Annotated[int, Field(ge=0)]
    """Which of the scheduler's rungs, from 0."""
    value: float | None
    """Loss on held-out text with the chosen channels masked; null is no finite number."""
    decision: Decision


class TrialFinished(Contract):
    """A trial's end. It is never computed again."""

    type: Literal["trial_finished"] = "trial_finished"
    trial: TrialNumber
    status: TrialEnding
    values: list[float | None] | None = None
    """By objective; null within is a figure that is no finite number; none at all unless it succeeded."""
    excesses: list[float | None] | None = None
    """By constraint, how far the bound is passed; 0 or below keeps it."""
    results: Results | None = None
    files: list[StoredFile] = []
    """What its job would leave, in the store; paths as a job's, such as `model/config.json`."""
    seconds: float = 0.0
    """It was under way for so long, all tries together."""
    gpu_seconds: float = 0.0
    """`seconds` times its GPUs."""
    avoided_seconds: float = 0.0
    """What the stages cost that it found instead of computing them."""
    avoided_by_stage: dict[str, float] = {}
    """The same by stage, such as `regularize` or `evaluate dense`."""
    code: str | None = None
    """Stable name of the error, of a failed one."""
    message: str | None = None
    """What went wrong and what to do, or why it was stopped."""

    @property
    def is_feasible(self) -> bool:
        """Whether it succeeded with every objective measured and every constraint kept."""
        measured = self.status == "succeeded" and None not in (self.values or [None])
        return measured and all(excess is not None and excess <= 0 for excess in self.excesses or [])


class TrialRecord(Contract):
    """All that is recorded of one trial, for an attempt that goes on with the search."""

    trial: TrialNumber
    point: Point
    reports: list[TrialReported] = []
    """In the order of the rungs."""
    finished: TrialFinished | None = None
    ended_as: int | None = None
    """Its place among the trials that have ended, in the order in which their ends were recorded, from 1."""
    seconds: float = 0.0
    """Of one that has not ended: under way for so long in earlier attempts, as its newest `TrialProgressed` says."""
    gpu_seconds: float = 0.0
    """As `seconds`."""


class SearchRecord(Contract):
    """What earlier attempts of a search left."""

    trials: list[TrialRecord] = []
    """By number."""
    wall_seconds: float = 0.0
    """What earlier attempts took."""
