"""How a stage trains, and how the recover stage does."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from workers.contracts.base import Contract


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
