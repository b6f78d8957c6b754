"""How a stage trains, and how the recover stage does."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workers.contracts.base import Contract

REFERENCE_WIDTH = 256
"""Hidden size up to which the default learning rates were found to suit; wider models want lower ones."""


class TrainingSettings(Contract):
    """How a stage trains: AdamW with warm-up and decay, clipped gradients; the rest trades time for memory."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Peak learning rate of AdamW. `null` suits the dense model's hidden size: 5e-4 up to 256, then falling as 1/width
    (3.1e-5 at 4,096)."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Sequences a step."""
    epochs: Annotated[int, Field(ge=1, le=100)] = 1
    """Passes over the stage's share of the samples."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes from its peak to `final_fraction` of it; `constant` keeps the peak."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises linearly to its peak."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the last step, as a fraction of the peak. Unused by `schedule: constant`."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """AdamW's decoupled weight decay."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW's decay of the second moment."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest global norm of the gradient; `null` clips nothing."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw` keeps both moments in float32, 8 bytes a trained parameter; `adamw_8bit` keeps them in blocks of 256
    with 8 bits each, 2 bytes a parameter. Tensors of fewer than 4096 elements keep float32 moments."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Element type in which the weights are held while they train. `bfloat16` halves them and their gradients, and
    rounds each update stochastically, by the seed, so that small updates are not lost. Under LoRA it is the type of
    the frozen weights; the adapters stay float32."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Element type of the arithmetic where mixed precision allows it. `auto` takes bfloat16 on a GPU and the weights'
    own type on a CPU. `float16` scales the loss so that small gradients survive, and skips a step that overflows."""
    accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 1
    """Parts in which a step's batch is computed, one after the other: less memory, the same gradient up to rounding.
    At most `batch_size`."""
    step_in_backward: bool = False
    """Update each parameter as soon as its gradient is known and free the gradient at once: no whole gradient is ever
    held. Needs `clip_norm: null`, `accumulation_steps: 1` and no `precision: float16`, which want whole gradients."""
    activation_checkpointing: bool = False
    """Keep one activation a layer and compute the rest again in the backward pass: about a third more time."""
    loss_chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    """Compute head and loss over so many tokens at a time, and again in the backward pass, so that the logits of a
    whole batch never exist. `null` computes them at once. A model whose head is unknown is computed at once too."""

    @property
    def peak_rate(self) -> float:
        """The learning rate, once it is known; see `at_width`."""
        if self.learning_rate is None:
            raise ValueError("training.learning_rate is left to the width of a model: call at_width first")
        return self.learning_rate

    @property
    def sequences_at_once(self) -> int:
        """Sequences that pass through the model together."""
        return math.ceil(self.batch_size / self.accumulation_steps)

    def default_rate(self, hidden_size: int) -> float:
        """See `learning_rate`."""
        return 5e-4 * min(1.0, REFERENCE_WIDTH / hidden_size)

    def at_width(self, hidden_size: int) -> Self:
        """These settings with the learning rate filled in for a dense model of this hidden size."""
        rate = self.learning_rate or self.default_rate(hidden_size)
        return self.model_copy(update={"learning_rate": rate})

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSettings:
        if self.accumulation_steps > self.batch_size:
            raise ValueError(
                f"accumulation_steps: {self.accumulation_steps} parts of a batch of {self.batch_size} sequences would "
                "leave some empty; lower it, or raise batch_size"
            )
        if self.step_in_backward:
            self._updates_early()
        if self.weights == "bfloat16" and self.precision == "float16":
            raise ValueError("precision: float16 does not go with weights: bfloat16; set precision to auto or bfloat16")
        return self

    def _updates_early(self) -> None:
        """Refuse what needs all gradients at once."""
        if self.clip_norm is not None:
            raise ValueError(
                "step_in_backward has no whole gradient whose norm clip_norm could measure; set clip_norm to null, "
                "or step_in_backward to false"
            )
        if self.accumulation_steps > 1:
            raise ValueError(
                "step_in_backward has no whole gradient to which accumulation_steps could add; set accumulation_steps "
                "to 1, or step_in_backward to false"
            )
        if self.precision == "float16":
            raise ValueError(
                "step_in_backward updates before it is known whether a scaled gradient overflowed; set precision to "
                "bfloat16 or float32, or step_in_backward to false"
            )


class LoraTrainingSettings(TrainingSettings):
    """As `TrainingSettings`, with the higher rate that adapters want."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Peak learning rate of AdamW. `null` suits the dense model's hidden size: 1e-3 up to 256, then falling as
    1/√width (2.5e-4 at 4,096)."""

    def default_rate(self, hidden_size: int) -> float:
        """See `learning_rate`."""
        return 1e-3 * math.sqrt(min(1.0, REFERENCE_WIDTH / hidden_size))


class RecoverNothing(Contract):
    """No recovery: the pruned model is the final one."""

    kind: Literal["none"] = "none"
    """`none` skips the stage."""


class RecoverWithLora(Contract):
    """Recover by low-rank adapters on the linear layers of the blocks, merged into the weights afterwards."""

    kind: Literal["lora"] = "lora"
    """`lora` trains adapters (peft), the paper's RFT."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of each adapter."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Adapters are scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' inputs."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1, max_length=64)] = "all-linear"
    """Which linear layers get an adapter: `all-linear` takes all but the head, a list takes those whose name ends in
    one of its entries, such as `[q_proj, v_proj]`."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the recover loss that is the KL divergence to the dense model; the rest is cross-entropy.
    Above 0 the dense model is held beside the one that trains."""
    training: LoraTrainingSettings = LoraTrainingSettings()
    """How the recover stage trains."""

    @field_validator("targets")
    @classmethod
    def _targets_have_names(cls, targets: str | list[str]) -> str | list[str]:
        if isinstance(targets, list) and not all(part.strip(" .") for part in targets):
            raise ValueError("an entry is empty; name the ends of layers' names, such as [q_proj, v_proj]")
        return targets


class RecoverInFull(Contract):
    """Recover by training every parameter."""

    kind: Literal["full"] = "full"
    """`full` trains all that is left."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the recover loss that is the KL divergence to the dense model; the rest is cross-entropy.
    Above 0 the dense model is held beside the one that trains."""
    training: TrainingSettings = TrainingSettings()
    """How the recover stage trains."""


RecoverSettings = Annotated[
    Annotated[RecoverNothing, Tag("none")]
    | Annotated[RecoverWithLora, Tag("lora")]
    | Annotated[RecoverInFull, Tag("full")],
    Discriminator("kind"),
]
