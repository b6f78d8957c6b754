"""The body of a plan: what a job would do, as server and client say it; they know REST and nothing else."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from api.schemas import EXAMPLE_RECIPE, Answer

_GIB = 2**30

EXAMPLE_PLAN: dict[str, Any] = {
    "object": "plan",
    "fits": True,
    "refusal": None,
    "models": {
        "dense": {"parameters": 6738415616, "hidden_size": 4096},
        "pruned": {"parameters": 5053861888, "hidden_size": 3072},
        "recovered": {"parameters": 5053861888, "hidden_size": 3072},
    },
    "seconds": 1570.0,
    "gpu_hours": 0.436,
    "peak_bytes": 34 * _GIB,
    "limit_bytes": 80 * _GIB,
    "stages": [
        {
            "stage": "evaluate",
            "subject": "dense",
            "key": "5f0c6a9dbd0ce8e0a9cf7f3a8cbf5f5be8a4f3d7f0e3a3f9f4a4c1f2b7e6d5c4",
            "known": True,
            "seconds": 0.0,
            "basis": None,
            "peak_bytes": 15 * _GIB,
            "memory": {"weights": 14 * _GIB, "activations": _GIB},
        },
        {
            "stage": "regularize",
            "subject": None,
            "key": "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90",
            "known": False,
            "seconds": 1570.0,
            "basis": "measured",
            "peak_bytes": 34 * _GIB,
            "memory": {"weights": 14 * _GIB, "moments": 14 * _GIB, "activations": 6 * _GIB},
        },
    ],
    "recipe": EXAMPLE_RECIPE,
    "notes": [],
}


class PlannedModel(Answer):
    """How large a model is, or will be."""

    parameters: int
    """True number of parameters, tied tensors once."""
    hidden_size: int
    """Width of the residual stream."""


class PlannedStage(Answer):
    """A step of the job. `null` is what cannot be known before a worker looks; `notes` says why."""

    stage: str
    subject: str | None
    """The model that an evaluation is about."""
    key: str | None
    """Digest of all that decides the stage's result: model, texts, settings, seed, code."""
    known: bool | None
    """Whether a result of this key exists already, so that nothing is computed."""
    seconds: float | None
    """Predicted time; 0 if the result is known."""
    basis: Literal["measured", "default"] | None
    """What the seconds rest on: `measured`, on such stages of finished jobs; `default`, on the throughput that the
    deployment assumes."""
    peak_bytes: int | None
    """Predicted peak of the memory of the device that computes."""
    memory: dict[str, int]
    """What the peak is made of, in bytes."""


class Plan(Answer):
    """What a job would do if it were submitted now. Nothing is queued by asking."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_PLAN]})

    object: Literal["plan"] = "plan"
    fits: bool | None
    """Whether every stage that is to be computed fits in memory; `null` if the limit or the need is not known."""
    refusal: str | None
    """Where it does not fit: the figures, and what to change. Submitting the recipe would be refused."""
    models: dict[str, PlannedModel]
    """The `dense`, the `pruned` and the `recovered` model; empty if the model is not where the server could look."""
    seconds: float | None
    """Predicted time of the stages that are to be computed."""
    gpu_hours: float | None
    """GPUs times predicted hours."""
    peak_bytes: int | None
    """Largest predicted peak of the stages that are to be computed."""
    limit_bytes: int | None
    """Memory of the device as this deployment's settings tell it."""
    stages: list[PlannedStage]
    """In the order in which they run."""
    recipe: dict[str, Any]
    """The complete recipe, with every default spelled out."""
    notes: list[str]
    """What could not be found out, and why."""
