"""The pruning methods that a recipe may name, and the settings of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from workers.contracts.base import Contract
from workers.contracts.training import TrainingSettings


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
