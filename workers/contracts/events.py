"""Facts that a running attempt reports upward, in order; never edited afterwards."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from workers.contracts.base import Contract
from workers.contracts.results import Measurement, Results, StageName, StoredFile, Subject
from workers.contracts.trials import TrialFinished, TrialProgressed, TrialProposed, TrialReported
from workers.errors import FaultClass


class StageStarted(Contract):
    """A stage begins, or its result was found and it is passed over."""

    type: Literal["stage_started"] = "stage_started"
    stage: StageName
    subject: Subject | None = None
    """The model an evaluation is about."""
    key: str
    """The stage's digest of inputs."""
    index: int
    """Position in the plan, from 0."""
    count: int
    """Stages in the plan."""


class Progress(Contract):
    """A step of a stage."""

    type: Literal["progress"] = "progress"
    stage: StageName
    subject: Subject | None = None
    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    metrics: dict[str, float] = {}
    """Figures of this step: `loss`, `penalty`, `preserved_ratio`, `learning_rate`, `seconds` and the like."""


class CheckpointSaved(Contract):
    """Training may go on from here on any node."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    stage: StageName
    step: int


class CheckpointLoaded(Contract):
    """Training goes on from an earlier attempt's checkpoint."""

    type: Literal["checkpoint_loaded"] = "checkpoint_loaded"
    stage: StageName
    step: int


class Measured(Contract):
    """Figures of one model."""

    type: Literal["measured"] = "measured"
    subject: Subject
    measurement: Measurement


class StageFinished(Contract):
    """A stage's result is in the store."""

    type: Literal["stage_finished"] = "stage_finished"
    stage: StageName
    subject: Subject | None = None
    key: str
    seconds: float
    """Seconds spent by this attempt."""
    reused: bool
    """The result was found by its key, nothing was computed."""
    cost_seconds: float | None = None
    """What the computation took when it was made, by whichever attempt."""


class ArtifactStored(Contract):
    """Files that belong to the job's result are in the store."""

    type: Literal["artifact_stored"] = "artifact_stored"
    files: list[StoredFile]
    """Paths start with the artifact's name, such as `model/`."""


class Notice(Contract):
    """Something a person should know that is no failure."""

    type: Literal["notice"] = "notice"
    message: str


class Succeeded(Contract):
    """The pipeline reached its end. Always the last event."""

    type: Literal["pipeline_succeeded"] = "pipeline_succeeded"
    results: Results


class Failed(Contract):
    """The pipeline ended with a fault. Always the last event."""

    type: Literal["pipeline_failed"] = "pipeline_failed"
    fault: FaultClass
    """Whose fault it is, hence whether to retry."""
    code: str
    """Stable name of the error."""
    message: str
    """What went wrong and what to do."""


Event = Annotated[
    StageStarted
    | Progress
    | CheckpointSaved
    | CheckpointLoaded
    | Measured
    | StageFinished
    | ArtifactStored
    | Notice
    | TrialProposed
    | TrialProgressed
    | TrialReported
    | TrialFinished
    | Succeeded
    | Failed,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads an event back from its plain form."""


class NumberedEvent(Contract):
    """An event with its place in the attempt, from 1, without gaps."""

    sequence: Annotated[int, Field(ge=1)]
    event: Event
