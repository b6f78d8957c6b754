"""The pruning methods that a recipe may name, and the settings of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, model_validator

from workers.contracts.base import Contract
from workers.contracts.rivals import (
    MOST_RATIO,
    LlmSurgeonSettings,
    MagnitudeSettings,
    RandomSettings,
    SlebSettings,
    SliceGptSettings,
)
from workers.contracts.training import TrainingSettings

PROXIMAL_STRENGTH = 10.0

_HEEDED_BY: dict[str, tuple[str, ...]] = {
    "strength": ("penalty", "proximal"),
    "norm": ("penalty",),
    "regularized": ("penalty",),
    "anneal_fraction": ("anneal",),
}
"""Fields of DReSS that some solvers alone look at."""


class DressSettings(Contract):
    """DReSS: regularize the channels that will go, then cut them. Fields left out take the preset's value."""

    kind: Literal["dress"] = "dress"
    """The method; the name of its file in `workers/pruning`."""
    preset: Literal["recommended", "paper"] = "recommended"
    """`recommended`: rotate the residual stream to its principal axes, drive those that matter least to exactly zero,
    cut with exact norm statistics. `paper`: as published, a fixed penalty on the last channels."""
    ratio: Annotated[float, Field(gt=0, le=MOST_RATIO, examples=[0.25])]
    """Share of the hidden channels to remove. The width kept is rounded to `round_to`; results give the true count."""
    basis: Literal["auto", "principal", "channels"] = "auto"
    """`principal` rotates the residual stream once, globally, to its principal axes; `channels` prunes it as it stands.
    `auto` takes `principal` where that is exact (not where a norm stands between a layer and the stream: Gemma 2,
    OLMo 2), and `channels` elsewhere."""
    channels: Literal["last", "random", "magnitude", "activation"] = "activation"
    """Which channels of the basis go: the `last` ones, a `random` draw, those of least weight `magnitude`, or those of
    least `activation`. The principal axes stand in the order of falling activation, so `last` says the same there."""
    sensitivity: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How much the principal axes heed what the loss is sensitive to, besides what the stream carries: 0 is plain
    principal components, 1 heeds the gradient alone. Unused by `basis: channels`."""
    refinement: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the regularize sequences on which the principal axes are then turned by gradient descent, so that
    the model with the last axes masked comes as near to the dense model as it can while no weight changes.
    Unused by `basis: channels`."""
    refinement_rate: Annotated[float, Field(gt=0, le=3)] = 0.4
    """Peak learning rate of the refinement, as the largest turn of any direction in a step, in radians; it means the
    same at every width."""
    solver: Literal["anneal", "penalty", "proximal", "elastic", "none"] = "anneal"
    """`anneal` shrinks the removed groups to exactly zero by a schedule; `proximal` does so by decoupled soft
    thresholds that grow; `penalty` adds λ·‖·‖ to the loss (Eq. 1); `elastic` trains every width of `elastic_ratios` at
    once, so that one run serves them all; `none` trains nothing and cuts at once."""
    regularized: Literal["removed", "ordered", "all"] = "removed"
    """What `penalty` acts on: the channels that will go; every channel that one of `elastic_ratios` takes, the more
    the more of them take it, so that one run serves them all (an ordered λ); or every parameter (the paper's FPR)."""
    norm: Literal["l1", "l2"] = "l2"
    """The norm of the penalty: `l1` sums absolute values, `l2` lengths of columns (Eqs. 2-4). Used by `penalty`."""
    strength: Annotated[float, Field(ge=0, le=1000)] = 1e-3
    """λ. For `penalty` its weight in the loss. For `proximal` (default 10) all thresholds together in units of a
    group's own size at the start, whatever the width: 1 takes a group that no gradient feeds to zero at the end."""
    anneal_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the regularize steps over which `anneal` takes the groups to zero; the rest train what is left."""
    elastic_ratios: Annotated[
        tuple[Annotated[float, Field(gt=0, le=MOST_RATIO)], ...], Field(min_length=1, strict=False)
    ] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """The ratios that one run of `elastic`, or of an ordered penalty, serves; `ratio` must be one of them."""
    exact_norms: bool = True
    """Rescale each norm at the cut, so that removing zeroed channels changes no logit. The paper leaves it open."""
    export: Literal["auto", "native"] = "auto"
    """`native` prunes attention heads along with the channels where stock code cannot load the model otherwise (OPT,
    GPT-NeoX); `auto` keeps the heads there and puts a small modelling file into the artifact."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the regularize loss that is the KL divergence to the dense model; the rest is cross-entropy.
    Above 0 a frozen copy of the dense model is held beside the one that trains."""
    train_norms: bool = False
    """Whether the regularize stage trains the gains and shifts of the norms on the stream. Held, the model fits its
    training text a little less and keeps more of what it knew of others."""
    stream_distillation: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight, added to the regularize loss, of the distance between the kept part of the residual stream and the dense
    model's, squared and relative, mean over layers. Needs the frozen copy too."""
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
        filled = {**PRESETS.get(str(given.get("preset", "recommended")), {}), **given}
        return {"strength": PROXIMAL_STRENGTH, **filled} if filled.get("solver") == "proximal" else filled

    @model_validator(mode="after")
    def _consistent(self) -> DressSettings:
        if self.ratio not in self.ratios_served:
            raise ValueError(f"ratio: {self.ratio} is none of elastic_ratios {list(self.elastic_ratios)}")
        if self.serves_many and self.export == "native":
            named = "solver `elastic`" if self.solver == "elastic" else "regularized `ordered`"
            raise ValueError(f"export: `native` prunes heads to one ratio and does not go with {named}")
        return self

    @property
    def serves_many(self) -> bool:
        """Whether one regularize run serves every one of `elastic_ratios`."""
        return self.solver == "elastic" or (self.solver == "penalty" and self.regularized == "ordered")

    @property
    def ratios_served(self) -> tuple[float, ...]:
        """The ratios at which the regularized model may be cut."""
        return self.elastic_ratios if self.serves_many else (self.ratio,)

    @property
    def trains(self) -> bool:
        """Whether the regularize stage takes training steps."""
        return self.solver != "none"

    def for_regularize(self) -> dict[str, Any]:
        """What decides the regularize stage's result, for its key: a run that serves many ratios heeds none of its
        own, and what only another solver heeds decides nothing."""
        unheeded = {field for field, solvers in _HEEDED_BY.items() if self.solver not in solvers}
        unheeded.add("ratio" if self.serves_many else "elastic_ratios")
        return self.model_dump(mode="json", exclude={"preset", "exact_norms", *unheeded})

    @property
    def has_teacher(self) -> bool:
        """Whether the dense model stands beside the one that trains."""
        return self.distillation > 0 or self.stream_distillation > 0

    @property
    def refines(self) -> bool:
        """Whether the axes are turned by descent, where the stream is rotated at all."""
        return self.basis != "channels" and self.channels in ("last", "activation") and self.refinement > 0

    def for_covariance(self) -> dict[str, Any] | None:
        """What decides what is learnt of the dense model, for its key: no ratio does; none if nothing looks at it."""
        if self.basis == "channels" and self.channels != "activation":
            return None
        return {"kind": self.kind, "basis": self.basis, "gradients": self.basis != "channels" and self.sensitivity > 0}

    def for_basis(self) -> dict[str, Any] | None:
        """What decides the basis, for its key; none if the channels are taken as they stand.

        The refinement alone heeds what is to be kept, and it takes its batches from `training`.
        """
        if self.basis == "channels" and self.channels == "last" and self.export != "native":
            return None
        names = {"kind", "basis", "channels", "sensitivity", "export"}
        if not self.refines:
            return self.model_dump(mode="json", include=names)
        names |= {"refinement", "refinement_rate", "round_to"}
        names.add("elastic_ratios" if self.serves_many else "ratio")
        return {**self.model_dump(mode="json", include=names), "batch_size": self.training.batch_size}

    def for_prune(self) -> dict[str, Any]:
        """What decides the prune stage's result besides the regularized model, for its key."""
        return self.model_dump(mode="json", include={"kind", "ratio", "exact_norms", "round_to", "export"})


PRESETS: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": {
        "basis": "channels",
        "channels": "last",
        "solver": "penalty",
        "distillation": 0.0,
        "stream_distillation": 0.0,
        "train_norms": True,
    },
}
"""Where a preset differs from the field defaults of `DressSettings`."""


class DenseSettings(Contract):
    """Nothing is removed: the dense model goes on to recovery. The control that tells fine-tuning from pruning."""

    kind: Literal["dense"] = "dense"
    """The method; the name of its file in `workers/pruning`."""

    @property
    def trains(self) -> bool:
        """Whether the regularize stage takes training steps."""
        return False

    @property
    def ratio(self) -> float:
        """Share of the hidden channels removed."""
        return 0.0

    def for_covariance(self) -> None:
        """Nothing is looked at."""

    def for_basis(self) -> None:
        """No basis is looked for."""

    def for_regularize(self) -> dict[str, Any]:
        """What decides the regularize stage's result, for its key."""
        return self.model_dump(mode="json")

    def for_prune(self) -> dict[str, Any]:
        """What decides the prune stage's result besides the regularized model, for its key."""
        return self.model_dump(mode="json")


def _dress_unless_said(given: Any) -> Any:
    return {"kind": "dress", **given} if isinstance(given, dict) else given


MethodSettings = Annotated[
    Annotated[
        DressSettings
        | DenseSettings
        | MagnitudeSettings
        | RandomSettings
        | SlebSettings
        | SliceGptSettings
        | LlmSurgeonSettings,
        Discriminator("kind"),
    ],
    BeforeValidator(_dress_unless_said),
    Field(description="Which pruning method runs, and how."),
]
"""One settings class a method, told apart by `kind`, which is `dress` where it is left out."""
