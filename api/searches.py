"""The bodies of searches and their trials, as server and client say them; they know REST and nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from api.schemas import EXAMPLE_RECIPE, Answer, Fault, JobStatus, Page, Submission
from workers.contracts.search import Search
from workers.contracts.trials import Decision

TrialStatus = Literal["waiting", "running", "succeeded", "failed", "stopped"]
"""`waiting`: begun, and going on once the search runs again. `stopped`: ended early, by the scheduler or the budget."""

EXAMPLE_SPEC: dict[str, Any] = {
    "title": "Strength and ratio",
    "base": {**EXAMPLE_RECIPE, "method": {"kind": "dress", "preset": "paper"}},
    "space": {
        "method.strength": {"loguniform": [1e-5, 1e-1]},
        "method.ratio": {"choice": [0.2, 0.25, 0.3]},
    },
    "objective": [{"metric": "recovered.perplexity.wikitext2", "mode": "min"}],
    "algorithm": "tpe",
    "scheduler": {"kind": "asha"},
    "trials": 24,
    "concurrency": 2,
    "seed": 0,
}
"""A search that is always accepted (the model must exist)."""

_CHOSEN = {"strength": 0.0021, "ratio": 0.25}
EXAMPLE_POINT: dict[str, Any] = {f"method.{name}": value for name, value in _CHOSEN.items()}
EXAMPLE_VALUES = {"recovered.perplexity.wikitext2": 7.12, "parameters": 5053861888}

EXAMPLE_SEARCH: dict[str, Any] = {
    "id": "search_01jdm9q4y8zk3v7n5r2t6w0xbc",
    "object": "search",
    "created_at": "2026-11-23T21:00:00Z",
    "updated_at": "2026-11-23T23:04:10Z",
    "started_at": "2026-11-23T21:00:02Z",
    "finished_at": None,
    "status": "running",
    "reason": None,
    "next_attempt_at": None,
    "error": None,
    "search": EXAMPLE_SPEC,
    "best": {
        "trial": 5,
        "values": EXAMPLE_VALUES,
        "recipe": {**EXAMPLE_RECIPE, "method": {"kind": "dress", "preset": "paper", **_CHOSEN}},
    },
    "frontier": [{"trial": 5, "values": EXAMPLE_VALUES}],
    "tally": {"running": 2, "waiting": 0, "succeeded": 6, "failed": 0, "stopped": 5},
    "trials_at_most": 24,
    "work": {
        "spent_seconds": 14650.0,
        "avoided_seconds": 6120.0,
        "avoided_fraction": 0.295,
        "gpu_seconds": 14650.0,
        "avoided_by_stage": {"regularize": 5400.0, "evaluate dense": 720.0},
    },
    "eta_seconds": 7990.0,
    "metadata": {},
    "labels": {"team": "compression"},
    "priority": 0,
    "attempts": 1,
    "last_event": 211,
}

EXAMPLE_TRIAL: dict[str, Any] = {
    "object": "trial",
    "search_id": "search_01jdm9q4y8zk3v7n5r2t6w0xbc",
    "trial": 7,
    "status": "stopped",
    "point": EXAMPLE_POINT,
    "values": {},
    "feasible": None,
    "reports": [{"rung": 0, "fraction": 0.111, "value": 3.92, "decision": "stop"}],
    "progress": None,
    "results": None,
    "seconds": 190.0,
    "gpu_seconds": 190.0,
    "avoided_seconds": 95.0,
    "avoided_by_stage": {"evaluate dense": 31.0, "basis": 64.0},
    "error": None,
    "reason": "at 11 % of its training it was not among the best third",
    "created_at": "2026-11-23T22:10:00Z",
    "ended_at": "2026-11-23T22:13:10Z",
    "ended_as": 6,
}


class SearchRequest(Submission):
    """A search to queue, and what to remember it by."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"search": EXAMPLE_SPEC, "labels": {"team": "compression"}, "priority": 0}]}
    )

    search: Search
    """What may vary, what is sought, and how much may be spent."""


class PromotionRequest(Submission):
    """What to remember the job by that a trial becomes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"labels": {"team": "compression"}, "priority": 5}]})


Values = dict[str, float | None]
"""Of a trial, by the objectives' metrics; `null` is no finite number."""


class FrontierTrial(Answer):
    """A trial that no other beats in every objective."""

    trial: int
    values: Values
    """By the objectives' metrics."""


class BestTrial(FrontierTrial):
    """The trial with the best first objective among those that keep every constraint."""

    recipe: dict[str, Any]
    """Its complete recipe; promoted, it becomes a job."""


class SearchTally(Answer):
    """How many trials stand where."""

    running: int
    waiting: int
    """Begun, while the search does not run."""
    succeeded: int
    failed: int
    stopped: int
    """Ended early, by the scheduler or the budget."""

    @property
    def ended(self) -> int:
        """Trials that are over."""
        return self.succeeded + self.failed + self.stopped


class SearchWork(Answer):
    """What the trials cost, and what they did not."""

    spent_seconds: float
    """Trials were under way for so long, all together."""
    avoided_seconds: float
    """What the stages cost that trials found instead of computing them."""
    avoided_fraction: float | None
    """Avoided, of what all would have cost; `null` before anything did."""
    avoided_by_stage: dict[str, float]
    """`avoided_seconds` by stage, the most first, such as `regularize` or `evaluate dense`."""
    gpu_seconds: float
    """Seconds of the trials times the GPUs of each."""


class QueuedSearch(Answer):
    """A search that was queued, and what it has found."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_SEARCH]})

    id: str
    object: Literal["search"] = "search"
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    """When the first attempt began."""
    finished_at: datetime | None
    """When it came to its final status."""
    status: JobStatus
    reason: str | None
    """Why it is in its status, where that needs a word."""
    next_attempt_at: datetime | None = None
    """Of a queued search whose last attempt failed: when the next may begin."""
    error: Fault | None
    search: dict[str, Any]
    """What was asked for, with every default spelled out and every path absolute."""
    best: BestTrial | None
    """`null` while no trial has been measured with every constraint kept."""
    frontier: list[FrontierTrial]
    """In the order of the first objective, best first; of a search with one objective, the best alone."""
    tally: SearchTally
    trials_at_most: int
    """Trials that are begun if the budget allows."""
    work: SearchWork
    eta_seconds: float | None
    """Seconds to its end, if the trials left take as long as those that ended; `null` while none has, or while the
    search does not run."""
    metadata: dict[str, Any]
    labels: dict[str, str]
    priority: int
    attempts: int
    """Attempts begun so far."""
    last_event: int
    """Number of the newest event."""


class SearchList(Page[QueuedSearch]):
    """Searches, newest first."""


class RungReport(Answer):
    """What a trial reported on its way, and whether it went on."""

    rung: int
    """From 0."""
    fraction: float | None
    """Of the trial's training steps."""
    value: float | None
    """Loss on held-out text with the chosen channels masked; `null` is no finite number."""
    decision: Decision


class Trial(Answer):
    """One recipe that a search tries."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_TRIAL]})

    object: Literal["trial"] = "trial"
    search_id: str
    trial: int
    """From 1, as proposed."""
    status: TrialStatus
    point: dict[str, JsonValue]
    """What it changes in the base recipe."""
    values: Values
    """By the objectives' metrics; empty unless it succeeded."""
    feasible: bool | None
    """Whether every objective was measured and every constraint is kept; `null` unless it succeeded."""
    reports: list[RungReport]
    """In the order of the rungs."""
    progress: dict[str, Any] | None
    """Where it is, while it runs."""
    results: dict[str, Any] | None
    """Figures of the `dense`, the `pruned` and the `recovered` model; `null` until they are known."""
    seconds: float | None
    """It was under way for so long, all tries together; `null` while it is."""
    gpu_seconds: float | None
    """`seconds` times its GPUs."""
    avoided_seconds: float | None
    """What the stages cost that it found instead of computing them."""
    avoided_by_stage: dict[str, float]
    """The same by stage."""
    error: Fault | None
    """Why it failed."""
    reason: str | None
    """Why it was stopped."""
    created_at: datetime
    ended_at: datetime | None
    ended_as: Annotated[int | None, Field(ge=1)]
    """Its place among the trials that have ended, from 1."""


class TrialList(Page[Trial]):
    """A search's trials, by number. Ask again with `after` set to the last one's number while `has_more` is true."""
