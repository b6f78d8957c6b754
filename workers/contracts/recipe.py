"""The recipe: all that a job may ask for. Every field's docstring is what the user reads in the API's pages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workers.contracts.base import Contract

DatasetName = Literal["wikitext2", "wikitext2_tokens", "ptb", "alpaca", "c4", "stdlib_docs", "text"]
"""The corpora, each one file in `workers/datasets`; `text` is a file of your own."""

FamilyName = Literal["llama"]
"""The architectures (Hugging Face's `model_type`), each one file in `workers/models`."""

DATASETS: tuple[str, ...] = get_args(DatasetName)
FAMILIES: tuple[str, ...] = get_args(FamilyName)


class ModelSettings(Contract):
    """Which model is pruned."""

    source: Annotated[str, Field(min_length=1, max_length=1024, examples=["meta-llama/Llama-2-7b-hf"])]
    """A Hugging Face model id, or the path of a checkpoint folder under one of the allowed roots
    (`DRESS_MODEL_ROOTS`). Only safetensors weights are read, and no remote code is run."""
    revision: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Branch, tag or commit of a hub model; only a commit pins it. `null` takes the hub's default branch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Element type of the exported weights, and the one in which they are evaluated. `auto` keeps the checkpoint's own.
    Training always holds float32 weights."""


class TrainingSettings(Contract):
    """How a stage trains: AdamW, linear warm-up, cosine decay, clipped gradients."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 5e-4
    """Peak learning rate of AdamW."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Sequences a step."""
    epochs: Annotated[int, Field(ge=1, le=100)] = 1
    """Passes over the stage's share of the samples."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises linearly to its peak."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the last step, as a fraction of the peak (cosine decay)."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """AdamW's decoupled weight decay."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW's decay of the second moment."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest global norm of the gradient; `null` clips nothing."""


class LoraTrainingSettings(TrainingSettings):
    """As `TrainingSettings`, with the higher rate that adapters want."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Peak learning rate of AdamW."""


class DressSettings(Contract):
    """DReSS: regularize the channels that will go, then cut them. Fields left out take the preset's value."""

    kind: Literal["dress"] = "dress"
    """The method; the name of its file in `workers/pruning`."""
    preset: Literal["recommended", "paper"] = "recommended"
    """`recommended`: rotate the residual stream to its principal axes, drive those of least variance to exactly zero,
    cut with exact norm statistics. `paper`: as published, a fixed penalty on the last channels and a plain cut."""
    ratio: Annotated[float, Field(gt=0, lt=1, examples=[0.25])]
    """Share of the hidden channels to remove. The width kept is rounded to `round_to`; results give the true count."""
    basis: Literal["principal", "channels"] = "principal"
    """`principal` rotates the residual stream once, globally, before choosing; `channels` prunes it as it stands."""
    channels: Literal["last"] = "last"
    """Which channels of the basis are removed. `last` under `principal` means the axes of least variance."""
    solver: Literal["anneal", "penalty"] = "anneal"
    """`anneal` shrinks the removed groups to exactly zero by a schedule; `penalty` adds λ·‖·‖ to the loss (Eq. 1)."""
    norm: Literal["l1", "l2"] = "l2"
    """The norm of the penalty: `l1` sums absolute values, `l2` lengths of columns (Eqs. 2-4). Unused by `anneal`."""
    strength: Annotated[float, Field(ge=0, le=1000)] = 1e-3
    """The weight λ of the penalty. Unused by `anneal`."""
    anneal_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the regularize steps over which `anneal` takes the groups to zero; the rest train what is left.
    Unused by `penalty`."""
    exact_norms: bool = True
    """Rescale each norm's weight and epsilon at the cut, so that removing zeroed channels changes no logit."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the regularize loss that is the KL divergence to the dense model; the rest is cross-entropy.
    Above 0 a frozen copy of the dense model is held beside the one that trains."""
    round_to: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The width kept is a multiple of this. `null` takes the smallest the architecture allows (Llama: its heads)."""
    training: TrainingSettings = TrainingSettings()
    """How the regularize stage trains."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        """A preset is only a set of defaults: what the recipe says wins."""
        if not isinstance(given, dict):
            return given
        return {**PRESETS.get(str(given.get("preset", "recommended")), {}), **given}


PRESETS: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": {"basis": "channels", "solver": "penalty", "exact_norms": False, "distillation": 0.0},
}
"""Where a preset differs from the field defaults of `DressSettings`."""

MethodSettings = Annotated[DressSettings, Field(description="Which pruning method runs, and how.")]
"""One settings class a method; more than one makes this a union discriminated by `kind`."""


def _require_path_for_text(name: str, path: str | None) -> None:
    if (name == "text") != (path is not None):
        raise ValueError("path: name `text` needs the path of a file, and no other name takes one")


class DataSettings(Contract):
    """The text that the regularize and recover stages see."""

    name: DatasetName = "wikitext2"
    """The corpus: its training part is drawn from, and no document of an evaluation text is used."""
    path: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """For `text` only: a UTF-8 file under one of the allowed roots (`DRESS_DATA_ROOTS`)."""
    samples: Annotated[int, Field(ge=2, le=10_000_000)] = 1000
    """Sequences drawn in all, for both stages together."""
    sequence_length: Annotated[int, Field(ge=8, le=1_048_576)] = 2048
    """Tokens a sequence; at most the model's context."""
    split: Annotated[str, Field(pattern=r"^\d{1,6}:\d{1,6}$")] = "3:1"
    """Shares of the samples, regularize : recover."""

    @model_validator(mode="after")
    def _consistent(self) -> DataSettings:
        _require_path_for_text(self.name, self.path)
        if self.regularize_samples < 1:
            raise ValueError("split leaves the regularize stage no sample; give it a larger first part, such as 3:1")
        return self

    @property
    def regularize_samples(self) -> int:
        """Sequences of the regularize stage; the recover stage has the rest."""
        first, second = (int(part) for part in self.split.split(":"))
        return round(self.samples * first / (first + second)) if first + second else 0

    @property
    def recover_samples(self) -> int:
        """Sequences of the recover stage."""
        return self.samples - self.regularize_samples


class RecoverNothing(Contract):
    """No recovery: the pruned model is the final one."""

    kind: Literal["none"] = "none"
    """`none` skips the stage."""


class RecoverWithLora(Contract):
    """Recover by low-rank adapters on every linear layer of the blocks, merged into the weights afterwards."""

    kind: Literal["lora"] = "lora"
    """`lora` trains adapters (peft), the paper's RFT."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of each adapter."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Adapters are scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' inputs."""
    training: LoraTrainingSettings = LoraTrainingSettings()
    """How the recover stage trains."""


class RecoverInFull(Contract):
    """Recover by training every parameter."""

    kind: Literal["full"] = "full"
    """`full` trains all that is left."""
    training: TrainingSettings = TrainingSettings()
    """How the recover stage trains."""


RecoverSettings = Annotated[
    Annotated[RecoverNothing, Tag("none")]
    | Annotated[RecoverWithLora, Tag("lora")]
    | Annotated[RecoverInFull, Tag("full")],
    Discriminator("kind"),
]


class PerplexityText(Contract):
    """A text on which perplexity is measured."""

    name: DatasetName
    """The corpus: its evaluation part is used."""
    path: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """For `text` only: a UTF-8 file under one of the allowed roots (`DRESS_DATA_ROOTS`)."""
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """The name under which the figure is reported; the corpus's own if left out."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _consistent(self) -> PerplexityText:
        _require_path_for_text(self.name, self.path)
        return self

    @property
    def key(self) -> str:
        """The figure's name in the results."""
        return self.label or self.name


class EvaluateSettings(Contract):
    """What is measured on the dense, the pruned and the recovered model alike."""

    perplexity: Annotated[list[PerplexityText], Field(max_length=16)] = [PerplexityText(name="wikitext2")]
    """Texts: a corpus by name, or `{name: text, path: FILE, label: NAME}`."""
    sequence_length: Annotated[int, Field(ge=2, le=1_048_576)] | None = None
    """Window of the perplexity protocol, in tokens; `null` takes min(2048, the model's context)."""
    windows: Annotated[int, Field(ge=1)] | None = None
    """Measure on the first so many windows only; `null` takes the whole text."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Windows evaluated at once."""
    tasks: list[str] = []
    """Zero-shot tasks. None can be asked for yet."""
    speed: bool = False
    """Measure generation speed of the dense, the pruned and the recovered model, in turns."""

    @field_validator("perplexity")
    @classmethod
    def _keys_differ(cls, texts: list[PerplexityText]) -> list[PerplexityText]:
        keys = [text.key for text in texts]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"two texts would be reported as {twice[0]!r}; give each a label of its own")
        return texts

    @field_validator("tasks")
    @classmethod
    def _no_tasks_yet(cls, tasks: list[str]) -> list[str]:
        if tasks:
            raise ValueError("zero-shot tasks are not available in this version; leave the list empty")
        return tasks


class Resources(Contract):
    """What one attempt occupies while it runs."""

    gpus: int = 0
    """GPUs: 0 computes on the CPU, 1 on one GPU."""
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU cores, and torch's thread count. Weights are reproducible for one machine type and one thread count."""
    checkpoint_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Training steps between checkpoints; `null` takes ten a stage. Does not change any result."""

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

    @model_validator(mode="after")
    def _recovery_has_data(self) -> Recipe:
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
