"""The distance of the kept stream to the dense model's, at every site: a teacher for each layer, not for the end alone.

In the new basis the narrow model's stream is meant to be the dense model's, projected. The sum of squares of what is
missing, relative to what should be there, tells every layer so directly; cross-entropy reaches the first ones only
through all the others.

Legend: d = hidden size, x_s [B, L, d] = the dense model's stream at site s, T [d, d] = the change of basis,
y_s [B, L, d] = the stream of the model in training, K = the channels kept, S = the number of sites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily
from workers.training.loop import Objective
from workers.training.objectives import Parts

Target = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The dense stream [B, L, d] → what the model's stream should be (float32, zero outside K), and 1 on K, 0 elsewhere."""


class StreamDistance:
    """(1/S)·Σ_s mean over tokens of ‖y_s - x_s T‖² / ‖x_s T‖², both on K alone."""

    def __init__(self, family: ModelFamily, target: Target) -> None:
        self._family, self._target = family, target
        self._dense: dict[int, Tensor] = {}
        self._counted: set[int] = set()
        self._terms: list[Tensor] = []

    @contextmanager
    def watching(self, model: PreTrainedModel, teacher: PreTrainedModel) -> Iterator[None]:
        """While the block runs, passes through the teacher and then the model leave the terms of the distance."""
        hooks = []
        for number, site in enumerate(self._family.sites(model.config)):
            hooks.append(teacher.get_submodule(site.module).register_forward_pre_hook(self._keep(number)))
            hooks.append(model.get_submodule(site.module).register_forward_pre_hook(self._compare(number, model)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def taken(self) -> Tensor:
        """The distance of the passes since the last call, a scalar."""
        distance = torch.stack(self._terms).mean()
        self._terms.clear()
        return distance

    def _keep(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._dense[number] = inputs[0].detach()
            self._counted.discard(number)

        return hook

    def _compare(self, number: int, model: PreTrainedModel) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """Where activations are dropped, backward computes the pass again and wants what it saved, so terms come again.

        The second time they are not counted. The dense stream is held for it, and elsewhere let go at once.
        """

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if number not in self._dense or not module.training:
                return  # a pass that trains nothing
            dense = self._dense[number] if model.is_activation_checkpointing else self._dense.pop(number)
            wanted, kept = self._target(dense)
            difference = inputs[0].float() * kept - wanted
            term = (difference.pow(2).sum(-1) / wanted.pow(2).sum(-1).clamp_min(1e-6)).mean()
            if number not in self._counted:
                self._counted.add(number)
                self._terms.append(term)

        return hook


def with_distance(objective: Objective, distance: StreamDistance, weight: float, parts: Parts) -> Objective:
    """The objective plus the weighted distance; the objective must pass the tokens through the teacher first.

    `parts` takes the distance, unweighted, as `stream_distance`.
    """

    def loss(ids: Tensor) -> Tensor:
        trained, taken = objective(ids), distance.taken()
        parts["stream_distance"] = taken.detach()
        return trained + weight * taken

    return loss
