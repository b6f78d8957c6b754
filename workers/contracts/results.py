"""What a job reports: figures of the dense, the pruned and the recovered model, and the files it leaves."""

from typing import Annotated, Literal

from pydantic import Field

from workers.contracts.base import Contract

Subject = Literal["dense", "pruned", "recovered"]
"""Which model a figure is about: as it came, after the cut, after recovery."""

StageName = Literal["evaluate", "basis", "regularize", "prune", "recover", "benchmark"]


class PerplexityProtocol(Contract):
    """How a perplexity was measured, so that it can be compared."""

    sequence_length: int
    """Tokens a window."""
    windows: int
    """Disjoint windows measured; the tail of the text is dropped."""
    tokens: int
    """Tokens of the whole text."""
    batch_size: int
    """Windows evaluated at once."""
    dtype: str
    """Element type of the weights."""
    arithmetic: str
    """Element type of the arithmetic: the weights' own on a GPU, float32 on a CPU."""
    text_sha256: str
    """Digest of the text."""


class Speed(Contract):
    """Generation speed on the attempt's machine."""

    generation_tokens_per_second: float
    """Median over the rounds of batch_size x new_tokens / seconds."""
    slowest: float
    """Tokens per second of the slowest round."""
    fastest: float
    """Tokens per second of the fastest round."""
    batch_size: int
    new_tokens: int
    rounds: int
    threads: int
    """CPU threads of torch."""
    device: str


class Measurement(Contract):
    """All that was measured of one model."""

    parameters: int | None = None
    """Number of parameters, tied tensors once."""
    bytes: int | None = None
    """Bytes of the safetensors weights on disk."""
    hidden_size: int | None = None
    """Width of the residual stream."""
    dtype: str | None = None
    """Element type of the stored weights."""
    weights_digest: str | None = None
    """SHA-256 over the stored tensors' names, types, shapes and bytes."""
    perplexity: dict[str, float | None] | None = None
    """Perplexity by text; lower is better, null if it is not a finite number."""
    perplexity_protocol: dict[str, PerplexityProtocol] | None = None
    """How each perplexity was measured."""
    speed: Speed | None = None
    """Generation speed."""

    def merged(self, other: "Measurement") -> "Measurement":
        """This measurement with what the other knows laid over it."""
        known = {name: value for name in type(self).model_fields if (value := getattr(other, name)) is not None}
        return self.model_copy(update=known)


class StageMemory(Contract):
    """Memory of the computing device during a stage, predicted and measured."""

    predicted_bytes: int | None = None
    """What weights, gradients, moments, activations and logits were expected to take; null if it could not be told."""
    measured_bytes: int | None = None
    """The highest: what tensors took on a GPU, the resident size of the whole process on a CPU."""
    before_bytes: int | None = None
    """Held before the stage began, in the same count: on a CPU Python and its libraries, about 0.5 GB."""


class Results(Contract):
    """Side by side: what the model was, what it lost, what it regained."""

    dense: Measurement | None = None
    pruned: Measurement | None = None
    recovered: Measurement | None = None
    sequence_length: int | None = None
    """Tokens of a training sequence, as the recipe said or as suited the model."""
    memory: dict[StageName, StageMemory] | None = None
    """Peak memory by stage; of several evaluations the one that took most."""

    def with_measurement(self, subject: Subject, measurement: Measurement) -> "Results":
        """These results with one more measurement merged in."""
        known: Measurement = getattr(self, subject) or Measurement()
        return self.model_copy(update={subject: known.merged(measurement)})

    def with_memory(self, stage: StageName, memory: StageMemory) -> "Results":
        """These results with a stage's memory, unless the same stage took more for another model."""
        stages = self.memory or {}
        known = stages.get(stage)
        if known is not None and (known.measured_bytes or 0) >= (memory.measured_bytes or 0):
            return self
        return self.model_copy(update={"memory": {**stages, stage: memory}})


class StoredFile(Contract):
    """A file in the artifact store."""

    path: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$", max_length=512)
    ]
    """Relative path with forward slashes, such as `model/config.json`; no part starts with a dot."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class StageResult(Contract):
    """What a finished stage left behind, found again by its key instead of being computed twice."""

    stage: StageName
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of all that went in: model, data, settings, seed, code."""
    files: list[StoredFile] = []
    """Files kept in the artifact store, paths relative to the stage's folder."""
    measurements: dict[Subject, Measurement] = {}
    seconds: float
    """What the computation cost."""
    memory: StageMemory | None = None
    """What it took; null for what older versions left."""
