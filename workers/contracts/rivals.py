"""Settings of the methods that DReSS is compared with: each cuts by its own rule and is recovered alike.

They calibrate on the regularize share of the samples, or, where the split leaves none (`0:1`), on the first of all.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from workers.contracts.base import Contract

MOST_RATIO = 0.9
"""No method removes more than this."""

Ratio = Annotated[float, Field(gt=0, le=MOST_RATIO, examples=[0.25])]
CalibrationSamples = Annotated[int, Field(ge=1, le=100_000)]


class _CutByRule(Contract):
    """What the rivals share: no training before the cut, so the preparation alone looks at the text."""

    @property
    def trains(self) -> bool:
        """Whether the regularize stage takes training steps."""
        return False

    def for_covariance(self) -> None:
        """None: each looks in its own way, while it prepares."""

    def for_basis(self) -> dict[str, Any] | None:
        """What decides the preparation, for its key."""
        return self.model_dump(mode="json")

    def for_regularize(self) -> dict[str, Any]:
        """What decides the regularize stage's result, for its key: all that decides the preparation."""
        return self.model_dump(mode="json")

    def for_prune(self) -> dict[str, Any]:
        """What decides the prune stage's result besides the regularized model, for its key."""
        return self.model_dump(mode="json")


class _ChannelsAtOnce(_CutByRule):
    """Hidden channels, the same in every layer, cut at once: what regularization is to be better than."""

    ratio: Ratio
    """Share of the hidden channels to remove. The width kept is rounded to `round_to`; results give the true count."""
    exact_norms: bool = True
    """Rescale each norm at the cut, so that it divides as if the removed channels were zero."""
    export: Literal["auto", "native"] = "auto"
    """`native` prunes attention heads along with the channels where stock code cannot load the model otherwise (OPT,
    GPT-NeoX); `auto` keeps the heads there and puts a small modelling file into the artifact."""
    round_to: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The width kept is a multiple of this. `null` takes the smallest the architecture allows (Llama: its heads)."""

    def for_basis(self) -> dict[str, Any]:
        """What decides the order of the channels, and of the heads, for its key: one order serves every ratio."""
        return self.model_dump(mode="json", include={"kind", "export"})

    def for_regularize(self) -> dict[str, Any]:
        """What decides the reordered model, for its key."""
        return self.for_basis()


class MagnitudeSettings(_ChannelsAtOnce):
    """The hidden channels of least weight are cut at once: the ℓ2 norm over all weights that a channel couples (Fang et
    al., 2023). The usual reference that needs no data. It is not always better than `random`: put both into a table.
    """

    kind: Literal["magnitude"] = "magnitude"
    """The method; the name of its file in `workers/pruning`."""


class RandomSettings(_ChannelsAtOnce):
    """Hidden channels drawn by the recipe's seed are cut at once. The cheapest reference."""

    kind: Literal["random"] = "random"
    """The method; the name of its file in `workers/pruning`."""


class SlebSettings(_CutByRule):
    """SLEB (Song et al., 2024): whole blocks are removed, one after the other, whichever hurts least at the time.

    The artifact is a stock checkpoint with fewer layers.
    """

    kind: Literal["sleb"] = "sleb"
    """The method; the name of its file in `workers/pruning`."""
    ratio: Ratio
    """Share of the blocks to remove, rounded to whole blocks. The first and the last always stay."""
    calibration_samples: CalibrationSamples = 128
    """Sequences on which each removal is judged; all there are if the regularize share has fewer."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Sequences computed at once; changes no result but by rounding."""


class SliceGptSettings(_CutByRule):
    """SliceGPT (Ashkboos et al., 2024): every block's input is rotated to principal axes of its own, the last are cut.

    The artifact holds a matrix on each residual shortcut and comes with a modelling file (`trust_remote_code=True`).
    """

    kind: Literal["slicegpt"] = "slicegpt"
    """The method; the name of its file in `workers/pruning`."""
    ratio: Annotated[float, Field(ge=0, le=MOST_RATIO, examples=[0.25])]
    """Share of the hidden channels to slice off; 0 rotates only. Shortcut matrices and a head of full width make up for
    part of it: results give the true count."""
    calibration_samples: CalibrationSamples = 128
    """Sequences from which the axes are taken."""
    damping: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Added to the diagonal of each covariance, as a share of its mean. It helps the
    eigenvalue solver and turns no axis."""
    round_to: Annotated[int, Field(ge=1, le=4096)] = 8
    """The width kept is rounded down to a multiple of this, as the paper's code does."""
    slice_head: bool = False
    """Slice what the last block gives to the head too. The paper's code does not by default: the last block's output
    and the head stay as wide as they were, which keeps quality and costs parameters."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Sequences computed at once; changes no result but by rounding."""


class LlmSurgeonSettings(_CutByRule):
    """LLM Surgeon (van der Ouderaa et al., 2024): rows and columns of linear layers go by their curvature's leave.

    Kronecker-factored curvature prices every row and column, a global threshold picks, and what stays is updated to
    make up for what goes, over several shots. The artifact holds zeros in unchanged shapes; recovery keeps them zero.
    While it works, every linear layer holds 4·(in² + out²) bytes beside the model: 70 GB for Llama 2 7B.
    """

    kind: Literal["llm_surgeon"] = "llm_surgeon"
    """The method; the name of its file in `workers/pruning`."""
    ratio: Ratio
    """Share of the elements of the blocks' linear layers to remove, biases too, in whole rows and columns; what was
    zero before counts. The share reached falls short by less than one row or column."""
    shots: Annotated[int, Field(ge=1, le=1000)] | None = None
    """In how many steps, the curvature anew at each. `null` takes 80·ratio, as published (40 to half)."""
    calibration_samples: CalibrationSamples = 128
    """Sequences from which the curvature is taken."""
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Added to the diagonal of each factor, as a share of its mean."""
    joint: Literal["exact", "release"] = "exact"
    """`exact` updates for the rows first and then for the columns of what that leaves, the joint optimum; `release`
    adds up both updates of the same weights and zeroes afterwards, as the published code does."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Sequences computed at once; changes no result but by rounding."""

    def for_basis(self) -> None:
        """Nothing is prepared: each shot looks at the model that the last one left."""

    @property
    def shots_taken(self) -> int:
        """See `shots`."""
        return self.shots or max(1, round(80 * self.ratio))
