"""What a job reports: figures of the dense, the pruned and the recovered model, and the files it leaves."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from workers.contracts.base import Contract
from workers.contracts.tasks import TaskFigure

Subject = Literal["dense", "pruned", "recovered"]
"""Which model a figure is about: as it came, after the cut, after recovery."""

StageName = Literal["evaluate", "zero_shot", "covariance", "basis", "regularize", "prune", "recover", "benchmark"]


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


class TimesAsFast(Contract):
    """How many times as fast as the dense model: its seconds divided by this model's, both of the same round."""

    median: float
    p10: float
    """A tenth of the rounds gave less."""
    p90: float
    """A tenth of the rounds gave more."""
    rounds: int


class Workload(Contract):
    """What one pass of a kind of work took, and what it takes by arithmetic alone."""

    seconds: float
    """Mean over the timed rounds."""
    shortest_seconds: float
    longest_seconds: float
    rounds: int
    ratio: TimesAsFast | None = None
    """Measured, against the dense model in the same rounds; null for the dense model itself."""
    ideal_ratio: float | None = None
    """What `ratio` would be if time went by what bounds such work: bytes read where tokens are generated one by one,
    floating-point operations where a prompt is read at once; null for the dense model itself."""
    operations: int
    """Floating-point operations of a pass: two for each element of a matrix and token, and attention over all pairs of
    positions, hidden ones too."""
    read_bytes: int
    """Bytes that a pass must read: the weights once a forward pass, and the cache of keys and values up to there."""
    peak_bytes: int | None = None
    """The most that tensors took with this model alone: its weights, the cache, activations, logits. By the allocator's
    mark on a GPU; on a CPU by the sum of what torch asked for, without the scratch of its kernel libraries."""


class Speed(Contract):
    """Speed on the attempt's machine, the models in turns in one process: generation, and reading a prompt."""

    generation_tokens_per_second: float
    """batch_size x new_tokens / mean seconds of a round."""
    slowest: float
    """Tokens per second of the slowest round."""
    fastest: float
    """Tokens per second of the fastest round."""
    batch_size: int
    """Sequences generated at once, greedily and with a cache, each from a prompt of one token."""
    new_tokens: int
    """Tokens generated a sequence, stop tokens or not."""
    rounds: int
    threads: int
    """CPU threads of torch."""
    device: str
    machine: str | None = None
    """Processor, cores and GPU, in words."""
    arithmetic: str | None = None
    """Element type of the weights while they computed: as stored on a GPU, float32 on a CPU."""
    attention: str | None = None
    """Transformers' name of the attention that ran."""
    prompt_tokens: int | None = None
    """Tokens of the prompt, one sequence without a cache."""
    prompt_tokens_per_second: float | None = None
    """prompt_tokens / mean seconds of a round."""
    generation: Workload | None = None
    """A batch generated; null for what older versions left."""
    prompt: Workload | None = None
    """A prompt read; null for what older versions left."""
    same_shapes_as: list[Subject] = []
    """Other models of this job whose tensors have the same shapes: their times differ by chance alone."""


class Measurement(Contract):
    """All that was measured of one model."""

    parameters: int | None = None
    """Number of parameters, tied tensors once."""
    nonzero_parameters: int | None = None
    """Of a method that leaves zeros in unchanged shapes: the parameters outside the rows and columns of the blocks'
    linear layers that are zero throughout, which is what a reshaped model would hold; null for other methods."""
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
    tasks: dict[str, TaskFigure] | None = None
    """Zero-shot tasks by name; `paper_zero_shot` is the mean of the paper's five."""
    speed: Speed | None = None
    """Time and memory of generation and of a prompt."""

    def merged(self, other: "Measurement") -> "Measurement":
        """This measurement with what the other knows laid over it; figures by text or task entry by entry."""
        known = {name: value for name in type(self).model_fields if (value := getattr(other, name)) is not None}
        for name, value in known.items():
            if isinstance(value, dict):
                known[name] = {**(getattr(self, name) or {}), **value}
        return self.model_copy(update=known)


class StageMemory(Contract):
    """Memory of the computing device during a stage, predicted and measured."""

    predicted_bytes: int | None = None
    """What weights, gradients, moments, activations and logits were expected to take; null if it could not be told."""
    measured_bytes: int | None = None
    """The highest: what tensors took on a GPU, the resident size of the whole process on a CPU."""
    before_bytes: int | None = None
    """Held before the stage began, in the same count: on a CPU Python and its libraries, about 0.5 GB."""


def together(memories: Iterable[StageMemory | None]) -> StageMemory:
    """The memory of work done in turns: the highest peak, and the least that was held before."""
    known = [memory for memory in memories if memory is not None]
    predicted = [memory.predicted_bytes for memory in known if memory.predicted_bytes is not None]
    measured = [memory.measured_bytes for memory in known if memory.measured_bytes is not None]
    before = [memory.before_bytes for memory in known if memory.before_bytes is not None]
    return StageMemory(
        predicted_bytes=max(predicted, default=None),
        measured_bytes=max(measured, default=None),
        before_bytes=min(before, default=None),
    )


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
