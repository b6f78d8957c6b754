"""The preserved ratio of every matrix while training, and of the activations: the data of the paper's Figure 3.

Legend: R = the channels to remove, P = recorded points, S = parts, |·| = the sum of absolute values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workers.models.family import ModelFamily
from workers.pruning.groups import RemovedPart
from workers.training.loop import Step

POINTS = 20
"""About so many times a stage the ratios are recorded."""


class PreservedRatios:
    """Records |RW_s| after a step as a fraction of |RW_s| before the first, for each slot s."""

    def __init__(
        self,
        removed: RemovedPart,
        model: PreTrainedModel,
        family: ModelFamily,
        probe: Tensor,
        steps: int,
        extra: dict[str, Tensor],
    ) -> None:
        """`extra`: tensors that come back on resumption, the record among them. `probe`: token ids [batch, length]."""
        self._removed, self._model, self._family = removed, model, family
        self._probe, self._extra = probe, extra
        self._every = max(1, steps // POINTS)
        if "ratios" not in extra:
            extra["ratios"] = torch.ones(1, len(removed.parts), dtype=torch.float64)
            extra["ratio_steps"] = torch.zeros(1, dtype=torch.int64)
            extra["activations"] = self._activations()

    def after(self, step: Step) -> None:
        """Record, if it is time."""
        due = step.step % self._every == 0 or step.step == step.steps
        if not due or step.step <= int(self._extra["ratio_steps"][-1]):
            return
        self._extra["ratios"] = torch.cat([self._extra["ratios"], self._removed.preserved_ratios()[None]])
        self._extra["ratio_steps"] = torch.cat([self._extra["ratio_steps"], torch.tensor([step.step])])

    def summary(self) -> dict[str, Any]:
        """Plain values: `steps` [P], `parameters` {name: [P]}, `activations` {site: ratio after the last step}."""
        ratios = self._extra["ratios"].T.tolist()
        names = [part.name if part.role != "heads" else f"{part.name} (heads)" for part in self._removed.parts]
        after = self._activations() / self._extra["activations"].clamp_min(1e-300)
        sites = [site.module for site in self._family.sites(self._model.config)]
        return {
            "steps": self._extra["ratio_steps"].tolist(),
            "parameters": dict(zip(names, ratios, strict=True)),
            "activations": dict(zip(sites, after.tolist(), strict=True)),
        }

    @torch.no_grad()
    def _activations(self) -> Tensor:
        """|x_R| / |x| of the stream x at each site, on the probe: float64 [sites]."""
        shares: list[Tensor] = []

        def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            stream = inputs[0].double().abs()
            shares.append((stream[..., self._removed.kept :].sum() / stream.sum()).cpu())

        was_training = self._model.training
        with _before(self._model, [site.module for site in self._family.sites(self._model.config)], watch):
            self._model.eval()(input_ids=self._probe.to(self._model.device), use_cache=False)
        self._model.train(was_training)
        return torch.stack(shares)


@contextmanager
def _before(model: nn.Module, modules: list[str], watch: Any) -> Iterator[None]:
    hooks = [model.get_submodule(name).register_forward_pre_hook(watch) for name in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
