"""Nothing is removed: the control that shows what the data alone do to the dense model."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.contracts.methods import DenseSettings
from workers.models.family import ModelFamily
from workers.pruning.method import Narrowed, Preparation, Regularization, nothing_to_prepare
from workers.training.loop import Step


class Dense:
    """See the module."""

    leaves_zeros = False
    cut_in_words = "nothing was cut: the logits differ by at most {cutting} from those of the dense model"

    def check(self, settings: DenseSettings, family: ModelFamily, config: PreTrainedConfig) -> None:
        """Nothing can be wrong."""

    def prepare(
        self, settings: DenseSettings, family: ModelFamily, task: Preparation
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """Nothing to prepare."""
        return nothing_to_prepare()

    def regularize(self, settings: DenseSettings, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Nothing to train."""
        yield from ()

    def zero(
        self, settings: DenseSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> None:
        """Nothing to zero."""

    def cut(
        self, settings: DenseSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> Narrowed:
        """The model as it is."""
        return Narrowed(model.config, {name: weight.detach() for name, weight in model.named_parameters()})


METHOD = Dense()
