"""The bodies of requests and answers, shared by the server and the Python client; they know REST and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from workers.contracts.base import Contract
from workers.contracts.recipe import Recipe
from workers.errors import FaultClass

JobStatus = Literal["queued", "running", "pausing", "paused", "cancelling", "cancelled", "succeeded", "failed"]
"""Where a job stands. `succeeded`, `failed` and `cancelled` are final."""

FINAL_STATUSES: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})

Item = TypeVar("Item")

EXAMPLE_RECIPE: dict[str, Any] = {
    "model": {"source": "meta-llama/Llama-2-7b-hf"},
    "method": {"kind": "dress", "preset": "recommended", "ratio": 0.25},
    "data": {"name": "wikitext2", "samples": 1000, "sequence_length": 2048, "split": "3:1"},
    "recover": {"kind": "lora", "rank": 8},
    "evaluate": {"perplexity": ["wikitext2"], "tasks": [], "speed": False},
    "resources": {"gpus": 0, "cpus": 1},
    "seed": 0,
}
"""A recipe that is always accepted (the model must exist)."""

EXAMPLE_JOB: dict[str, Any] = {
    "id": "job_01jdm9q4y8zk3v7n5r2t6w0xbc",
    "object": "job",
    "created_at": "2026-11-23T21:00:00Z",
    "updated_at": "2026-11-23T21:04:10Z",
    "started_at": "2026-11-23T21:00:02Z",
    "finished_at": None,
    "artifacts_removed_at": None,
    "status": "running",
    "stage": "regularize",
    "reason": None,
    "next_attempt_at": None,
    "error": None,
    "recipe": EXAMPLE_RECIPE,
    "results": {"dense": {"parameters": 6738415616, "perplexity": {"wikitext2": 5.47}}},
    "progress": {"stage": "regularize", "step": 40, "steps": 94, "metrics": {"loss": 1.94}},
    "metadata": {"ticket": "LLM-7"},
    "labels": {"team": "compression"},
    "priority": 0,
    "attempts": 1,
    "last_event": 43,
}


class Answer(BaseModel):
    """What the server says. A client ignores fields that a newer server adds."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Page(Answer, Generic[Item]):
    """A part of a list. Ask again with `after` set to the last item while `has_more` is true."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    """Whether more items follow the last one here."""


LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?)?$")]


class Submission(Contract):
    """What to remember a thing by that is queued."""

    metadata: Annotated[dict[Annotated[str, Field(max_length=255)], JsonValue], Field(max_length=64)] = {}
    """Free JSON of yours, kept and given back unread."""
    labels: Annotated[dict[LabelName, LabelValue], Field(max_length=32)] = {}
    """Short names and values to filter lists by."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Higher runs sooner; equal priorities run first come, first served."""


class JobRequest(Submission):
    """A recipe to queue, and what to remember it by."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"recipe": EXAMPLE_RECIPE, "labels": {"team": "compression"}, "priority": 0}]}
    )

    recipe: Recipe
    """All that the job asks for."""


class Fault(Answer):
    """Why something failed."""

    code: str
    """Stable name of the error."""
    message: str
    """What went wrong and what to do."""
    fault: FaultClass | None = None
    """Whose fault it is: the `recipe`'s, the node's memory (`out_of_memory`), the surroundings' (`transient`), or that
    of a stage that took longer than its `deadline`; `null` of trials, and for what older versions left."""
    retryable: bool | None = None
    """Whether the same, unchanged, may well succeed the next time: such as these the service tries again by itself."""


class Job(Answer):
    """A recipe that was queued, and what became of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_JOB]})

    id: str
    object: Literal["job"] = "job"
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    """When the first attempt began."""
    finished_at: datetime | None
    """When the job came to its final status."""
    artifacts_removed_at: datetime | None = None
    """When the retention policy removed its files."""
    status: JobStatus
    stage: str | None
    """The stage now running."""
    reason: str | None
    """Why the job is in its status, where that needs a word (such as what a queued job waits for)."""
    next_attempt_at: datetime | None = None
    """Of a queued job whose last attempt failed: when the next may begin."""
    error: Fault | None
    recipe: dict[str, Any]
    """The complete recipe, with every default spelled out."""
    results: dict[str, Any]
    """Figures of the `dense`, the `pruned` and the `recovered` model, as they become known."""
    progress: dict[str, Any] | None
    """The latest step of the stage now running."""
    metadata: dict[str, Any]
    labels: dict[str, str]
    priority: int
    attempts: int
    """Attempts begun so far."""
    last_event: int
    """Number of the job's newest event."""


class JobList(Page[Job]):
    """Jobs, newest first."""


class Attempt(Answer):
    """One leased try at a job or a search."""

    id: str
    object: Literal["attempt"] = "attempt"
    job_id: str
    """The job, or the search."""
    number: int
    """From 1."""
    outcome: str | None
    """How it ended; `null` while it runs."""
    error: Fault | None
    started_at: datetime
    ended_at: datetime | None
    node: str | None
    """Where it ran."""


class AttemptList(Page[Attempt]):
    """The attempts at a job or a search, first one first."""


class Event(Answer):
    """A fact about a job or a search, never edited."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "evt_01jdm9q4y8zk3v7n5r2t6w0xbc_00000043",
                    "object": "event",
                    "job_id": "job_01jdm9q4y8zk3v7n5r2t6w0xbc",
                    "number": 43,
                    "type": "progress",
                    "created_at": "2026-11-23T21:04:10Z",
                    "attempt_id": "att_01jdm9q6m2e8xg4d1h9b7c5fka",
                    "body": {"type": "progress", "stage": "regularize", "step": 40, "steps": 94},
                }
            ]
        }
    )

    id: str
    object: Literal["event"] = "event"
    job_id: str
    """The job, or the search."""
    number: int
    """Events count from 1 without gaps; this is the `id:` of the event stream."""
    type: str
    """What happened. `job_succeeded`, `job_failed` and `job_cancelled` are final, of a search too."""
    created_at: datetime
    attempt_id: str | None
    """The attempt that reported it; `null` for what the service itself did."""
    body: dict[str, Any]
    """What there is to say, by type."""


class EventList(Page[Event]):
    """Events of a job or a search, oldest first."""


class Artifact(Answer):
    """A file that a job or a search left."""

    object: Literal["artifact"] = "artifact"
    path: str
    """Relative, with forward slashes, such as `model/config.json`."""
    size_bytes: int
    sha256: str
    """Hexadecimal digest of the bytes."""
    href: str
    """Where to download it."""
    created_at: datetime


class ArtifactList(Page[Artifact]):
    """The manifest: every file that was left, by path."""


class ProblemItem(Answer):
    """One thing to put right."""

    pointer: str | None = None
    """JSON pointer (RFC 6901) into the request body, such as `/recipe/method/ratio`."""
    parameter: str | None = None
    """Name of the query parameter or header, where the fault is not in the body."""
    detail: str
    """What is wrong and what to do."""


class Problem(Answer):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:dress:problem:invalid_request",
                    "title": "The request is not valid",
                    "status": 422,
                    "detail": "/recipe/method/ratio: 1.5 is out of range; give a number greater than 0 and less than 1",
                    "errors": [
                        {
                            "pointer": "/recipe/method/ratio",
                            "detail": "1.5 is out of range; give a number greater than 0 and less than 1",
                        }
                    ],
                    "request_id": "req_01jdm9q4y8zk3v7n5r2t6w0xbc",
                }
            ]
        }
    )

    type: str
    """A URN that ends in the error's stable name."""
    title: str
    """The kind of error in a few words."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened this time and what to do."""
    errors: list[ProblemItem] = []
    """Each single thing to put right."""
    request_id: str
    """Names this request in the server's log; also the header `X-Request-ID`."""


class Health(Answer):
    """The state of the server."""

    status: Literal["ok"] = "ok"


def instant(epoch_seconds: float) -> datetime:
    """A row's time as an aware UTC time."""
    return datetime.fromtimestamp(epoch_seconds, UTC)


def instant_or_none(epoch_seconds: float | None) -> datetime | None:
    """As `instant`, for what may not have happened yet."""
    return None if epoch_seconds is None else instant(epoch_seconds)
