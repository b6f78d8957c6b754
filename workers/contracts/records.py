"""What training stages record, one file a stage: the artifact's `records/` folder."""

from typing import Annotated

from pydantic import Field, model_validator

from workers.contracts.base import Contract
from workers.contracts.results import StageName


class TrainingRecord(Contract):
    """The figures of a stage's reported steps, in columns of equal length."""

    stage: StageName
    steps: int
    """Optimizer steps of the whole stage."""
    step: list[Annotated[int, Field(ge=0)]]
    """Steps done at each point, rising."""
    metrics: dict[str, list[float | None]]
    """What was reported there: `loss`, `learning_rate`; where the stage has them `cross_entropy`, `divergence`,
    `stream_distance` (the loss's terms, in nats a token but for the last), `penalty`, `preserved_ratio`,
    `loss_scale`; of a search's trial `cut_loss`, the loss on held-out text as if the model were cut then, and
    `channels_kept`, to which width. Null where a point has no such figure, or no finite one."""

    @model_validator(mode="after")
    def _rectangular(self) -> "TrainingRecord":
        for name, column in self.metrics.items():
            if len(column) != len(self.step):
                raise ValueError(f"metrics.{name}: {len(column)} values for {len(self.step)} steps")
        return self


class PreservedRecord(Contract):
    """What is left of the part that will go (the paper's Figure 3): shares of the sums of absolute values before."""

    steps: list[int]
    """Steps done at each point."""
    parameters: dict[str, list[float | None]]
    """By parameter, the share left at each point."""
    activations: dict[str, float | None]
    """By site of the stream, the share left after the last step."""
