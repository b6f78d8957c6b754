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
            "parts": [
                {
                    "name": "the sizes",
                    "key": "0b7a1d52c3e4f5968778695a4b3c2d1e0f9e8d7c6b5a49382716f5e4d3c2b1a0",
                    "known": True,
                },
                {
                    "name": "wikitext2",
                    "key": "91c0de7f3a2b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5",
                    "known": True,
                },
            ],
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
            "parts": [],
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


class PlannedPart(Answer):
    """What an evaluation measures by itself and finds again by itself: a text, a task, or the sizes."""

    name: str
    """The text's or the task's name in the recipe, or `the sizes`."""
    key: str | None
    """Digest of all that decides its result; the name does not."""
    known: bool | None
    """Whether a result of this key exists already."""


class PlannedStage(Answer):
    """A step of the job. `null` is what cannot be known before a worker looks; `notes` says why."""

    stage: str
    subject: str | None
    """The model that an evaluation is about."""
    key: str | None
    """Digest of all that decides the stage's result: model, texts, settings, seed, code. That of an evaluation stands
    for the keys of its `parts`."""
    known: bool | None
    """Whether a result of this key exists already, of an evaluation those of all parts, so that nothing is computed."""
    seconds: float | None
    """Predicted time; 0 if the result is known. Parts that are known take none."""
    basis: Literal["measured", "default"] | None
    """What the seconds rest on: `measured`, on such stages of finished jobs; `default`, on the throughput that the
    deployment assumes."""
    peak_bytes: int | None
    """Predicted peak of the memory of the device that computes."""
    memory: dict[str, int]
    """What the peak is made of, in bytes."""
    parts: list[PlannedPart] = []
    """Of an evaluation, what it consists of; other stages have none."""


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
