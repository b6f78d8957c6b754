"""The recipe: all that a job may ask for. Every field's docstring is what the user reads in the API's pages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, field_validator, model_validator

from workers.contracts.base import Contract
from workers.contracts.methods import MethodSettings
from workers.contracts.results import Subject
from workers.contracts.speed import SpeedForm, SpeedSettings
from workers.contracts.tasks import TaskSettings, WantedTask, wanted_tasks
from workers.contracts.training import RecoverSettings, RecoverWithLora

DatasetName = Literal["wikitext2", "wikitext2_tokens", "ptb", "alpaca", "c4", "stdlib_docs", "text"]
"""The corpora, each one file in `workers/datasets`; `text` is a file of your own."""

FamilyName = Literal["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "olmo2", "phi", "opt", "gpt_neox"]
"""The architectures (Hugging Face's `model_type`), each one file in `workers/models`."""

DATASETS: tuple[str, ...] = get_args(DatasetName)
FAMILIES: tuple[str, ...] = get_args(FamilyName)

LONGEST_SEQUENCE = 2048
"""Tokens of a training sequence, unless the recipe or the model's context says less."""


class ModelSettings(Contract):
    """Which model is pruned."""

    source: Annotated[str, Field(min_length=1, max_length=1024, examples=["meta-llama/Llama-2-7b-hf"])]
    """A Hugging Face model id, or the path of a checkpoint folder under one of the allowed roots
    (`DRESS_MODEL_ROOTS`). Only safetensors weights are read, and no remote code is run."""
    revision: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Branch, tag or commit of a hub model; only a commit pins it. `null` takes the hub's default branch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Element type of the exported weights, and the one in which they are evaluated. `auto` keeps the checkpoint's own.
    Training holds float32 weights unless its `weights` says otherwise."""


DatasetId = Annotated[
    str, Field(pattern=r"^dataset_[0-9a-zA-Z]{1,32}$", examples=["dataset_01jdm9q4y8zk3v7n5r2t6w0xbc"])
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NamedText(Contract):
    """A corpus by name, or a text of one's own: a file, or a data set that was uploaded."""

    name: DatasetName
    """The corpus."""
    path: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """For `text` only: a UTF-8 file under one of the allowed roots (`DRESS_DATA_ROOTS`)."""
    dataset: DatasetId | None = None
    """For `text` only, in place of `path`: the id of a data set that was uploaded (`POST /v1/datasets`)."""
    dataset_sha256: Sha256 | None = None
    """SHA-256 of the data set's bytes. The service fills it in when the recipe is submitted, so that the recipe says by
    itself which text is meant; given along, it must be the data set's own."""

    @model_validator(mode="after")
    def _own_text(self) -> Self:
        given = [field for field in ("path", "dataset") if getattr(self, field) is not None]
        if self.name != "text" and given:
            raise ValueError(f"{given[0]}: only the name `text` takes one; leave it out, or set name to text")
        if self.name == "text" and len(given) != 1:
            raise ValueError("name `text` needs the path of a file or the id of an uploaded dataset, one of the two")
        if self.dataset_sha256 is not None and self.dataset is None:
            raise ValueError("dataset_sha256: it belongs to a dataset; name that too, or leave it out")
        return self


class DataSettings(NamedText):
    """The text that the regularize and recover stages see."""

    name: DatasetName = "wikitext2"
    """The corpus: its training part is drawn from, and no document of an evaluation text is used."""
    samples: Annotated[int, Field(ge=2, le=10_000_000)] = 1000
    """Sequences drawn in all, for both stages together."""
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    """Tokens a sequence, at most the model's context; `null` takes min(2048, the model's context)."""
    sampling: Literal["disjoint", "overlapping"] = "disjoint"
    """`disjoint` draws among the pieces that the corpus is cut into, so that no token is drawn twice; `overlapping`
    begins each sequence at a token of its own, so that a small corpus gives as many as are asked for."""
    split: Annotated[str, Field(pattern=r"^\d{1,6}:\d{1,6}$")] = "3:1"
    """Shares of the samples, regularize : recover. `0:1` gives all to recovery, for methods that train nothing before
    the cut; `1:0` gives all to the regularize stage, where `recover.kind` is none."""

    @model_validator(mode="after")
    def _consistent(self) -> DataSettings:
        if not any(int(part) for part in self.split.split(":")):
            raise ValueError("split: 0:0 shares out nothing; write shares such as 3:1")
        return self

    def resolved_sequence_length(self, context: int | None) -> int:
        """Tokens a sequence for a model of this context; None for a model that states none."""
        return self.sequence_length or min(LONGEST_SEQUENCE, context or LONGEST_SEQUENCE)

    @property
    def regularize_samples(self) -> int:
        """Sequences of the regularize stage; the recover stage has the rest."""
        first, second = (int(part) for part in self.split.split(":"))
        return round(self.samples * first / (first + second))

    @property
    def recover_samples(self) -> int:
        """Sequences of the recover stage."""
        return self.samples - self.regularize_samples


class PerplexityText(NamedText):
    """A text on which perplexity is measured."""

    name: DatasetName
    """The corpus: its evaluation part is used."""
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """The name under which the figure is reported; the corpus's own if left out."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @property
    def key(self) -> str:
        """The figure's name in the results."""
        return self.label or self.name


class EvaluateSettings(Contract):
    """What is measured on the dense, the pruned and the recovered model alike."""

    perplexity: Annotated[list[PerplexityText], Field(max_length=16)] = [PerplexityText(name="wikitext2")]
    """Texts: a corpus by name, `{name: text, path: FILE, label: NAME}`, or `{name: text, dataset: ID, label: NAME}`."""
    sequence_length: Annotated[int, Field(ge=2, le=1_048_576)] | None = None
    """Window of the perplexity protocol, in tokens; `null` takes min(2048, the model's context)."""
    windows: Annotated[int, Field(ge=1)] | None = None
    """Measure on the first so many windows only; `null` takes the whole text."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Windows evaluated at once."""
    tasks: Annotated[list[TaskSettings], Field(max_length=64)] = []
    """Zero-shot tasks: names of lm-eval's tasks, or `{name: arc_easy, limit: 500, num_fewshot: 0}`.
    `paper_zero_shot` stands for PIQA, WinoGrande, HellaSwag, ARC-e, ARC-c and their mean. What is longer than the
    model's context loses its beginning, and the result counts such requests."""
    tasks_limit: Annotated[int, Field(ge=1)] | None = None
    """The first so many rows of each task, in the order of its file; `null` takes all."""
    tasks_num_fewshot: Annotated[int, Field(ge=0, le=100)] | None = None
    """Solved examples before each question; `null` takes what each task says, which is none for the paper's five."""
    tasks_batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Questions with one answer each that are scored at once."""
    tasks_of: Annotated[list[Subject], Field(min_length=1, max_length=3)] = ["dense", "pruned", "recovered"]
    """The models that the tasks are run on; `[recovered]` costs a third."""
    speed: bool | SpeedSettings = False
    """Measure time and memory of generation and of a long prompt on the dense, the pruned and the recovered model, in
    turns. `true` takes sizes that suit the device; an object such as `{batch_size: 16, new_tokens: 64}` says some."""

    @field_validator("perplexity")
    @classmethod
    def _keys_differ(cls, texts: list[PerplexityText]) -> list[PerplexityText]:
        keys = [text.key for text in texts]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"two texts would be reported as {twice[0]!r}; give each a label of its own")
        return texts

    @model_validator(mode="after")
    def _tasks_agree(self) -> EvaluateSettings:
        try:
            _ = self.wanted_tasks
        except ValueError as error:
            raise ValueError(f"tasks: {error}") from error
        return self

    @property
    def wanted_tasks(self) -> tuple[WantedTask, ...]:
        """The tasks to run, groups of ours taken apart and defaults filled in."""
        return wanted_tasks(self.tasks, self.tasks_limit, self.tasks_num_fewshot)

    @property
    def speed_settings(self) -> SpeedSettings | None:
        """What is asked of the benchmark; None if it is not wanted."""
        return self.speed if isinstance(self.speed, SpeedSettings) else SpeedSettings() if self.speed else None


class Resources(Contract):
    """What one attempt occupies while it runs."""

    gpus: int = 0
    """GPUs: 0 computes on the CPU, 1 on one GPU."""
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU cores, and torch's thread count. Weights are reproducible for one machine type and one thread count."""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Training steps between checkpoints; `null` takes ten a stage. Does not change any result."""
    checkpoint_every_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """A checkpoint is also taken when the last is so many minutes old; `null` goes by steps alone. Does not change any
    result."""

    stage_deadline_hours: Annotated[float, Field(gt=0, le=8760)] | None = None
    """A stage that has not ended so many hours after it began is stopped and frees what it occupied; it is tried once
    more, from its last checkpoint. A search's trial fails instead, and waiting for another that computes the same stage
    counts. `null` takes the deployment's; without a service nothing is stopped. Does not change any result."""

    @field_validator("gpus")
    @classmethod
    def _one_gpu_at_most(cls, gpus: int) -> int:
        if gpus not in (0, 1):
            raise ValueError("0 or 1: a job runs on the CPU or on one GPU; sharding over several is not available yet")
        return gpus


class Recipe(Contract):
    """All that a job asks for. Complete by itself: the same recipe, code and machine type give the same weights."""

    model: ModelSettings
    """Which model is pruned."""
    method: MethodSettings
    data: DataSettings = DataSettings()
    """The text that the regularize and recover stages see."""
    recover: RecoverSettings = RecoverWithLora()
    """What follows the cut: `{kind: none}`, `{kind: lora, rank: 8}` or `{kind: full}`."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """What is measured."""
    resources: Resources = Resources()
    """What one attempt occupies while it runs."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of every random choice: samples, their order, adapters, dropout."""

    def speed_form(self, context: int | None = None) -> SpeedForm | None:
        """Sizes of the benchmark on this recipe's device for a model of this context; None if it is not wanted."""
        settings = self.evaluate.speed_settings
        return None if settings is None else settings.form(bool(self.resources.gpus), context)

    @model_validator(mode="after")
    def _stages_have_data(self) -> Recipe:
        if self.method.trains and self.data.regularize_samples < 1:
            raise ValueError(
                "data.split leaves the regularize stage no sample; give it a larger first part, such as 3:1, "
                "or cut at once with method.solver: none"
            )
        if self.evaluate.tasks and set(self.evaluate.tasks_of) == {"recovered"} and self.recover.kind == "none":
            raise ValueError(
                "evaluate.tasks_of names the recovered model alone and recover.kind is none; write [pruned] instead"
            )
        if self.recover.kind != "none" and self.data.recover_samples < 1:
            raise ValueError(
                f"data.split leaves the recover stage no sample for recover.kind={self.recover.kind}; "
                "give it a share, or set recover.kind to none"
            )
        return self


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML document, reading `1e-3` as a number (YAML 1.1 alone reads it as a string).

    Raises:
        yaml.YAMLError: the text is no YAML.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader underneath


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
