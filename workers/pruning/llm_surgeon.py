"""LLM Surgeon: whole rows and columns of the blocks' linear layers go, those that the curvature prices lowest.

Follows "The LLM Surgeon" (van der Ouderaa et al., 2024); METHOD §7. The artifact has zeros in the dense model's shapes.

A price is that of a whole row or column, not of an element of it: the cheapest go, over all layers together, as long as
the elements that go with them are within the share wanted. Each shot's share grows linearly and counts what is zero
already. A bias is a further column of its layer, fed with ones: it goes with its row, makes up for columns that go, has
a price of its own and counts as elements.

Memory beside the model: 4·(in² + out²) bytes a linear layer, and in float64 a few times the largest layer's factors.

Legend: W [m, n] = a layer's weight with its bias as a column, P, Q = rows and columns that go; see `kronecker`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from workers.checkpoints import weights_of
from workers.contracts.rivals import LlmSurgeonSettings
from workers.contracts.training import TrainingSettings
from workers.errors import Diverged, RecipeError
from workers.models.family import ModelFamily, block_linears
from workers.pruning.kronecker import Curvature, curvature_of, matrix_of, prices, put_matrix, without
from workers.pruning.method import Narrowed, Preparation, Regularization, batches, nothing_to_prepare
from workers.training.loop import Keeper, Step, TrainingState
from workers.training.optimizers import Optimizers

Layers = dict[str, nn.Linear]


@dataclass(frozen=True)
class Lines:
    """What is left of a layer, and what its rows and columns cost. All on the CPU."""

    rows: Tensor
    """A mask [m]: rows that are not zero already."""
    columns: Tensor
    """A mask [n]."""
    row_prices: Tensor
    """Of the rows left, float64."""
    column_prices: Tensor
    """Of the columns left, float64."""

    @property
    def elements(self) -> int:
        """m·n, zeros too."""
        return len(self.rows) * len(self.columns)

    @property
    def removed(self) -> int:
        """Elements in rows and columns that are zero already."""
        return self.elements - len(self.row_prices) * len(self.column_prices)


class LlmSurgeon:
    """See the module."""

    leaves_zeros = True
    cut_in_words = (
        "what goes was zero already and keeps its place: the artifact's logits differ by at most {cutting} from those "
        "of the model after its last shot"
    )

    def check(self, settings: LlmSurgeonSettings, family: ModelFamily, config: PreTrainedConfig) -> None:
        """Every supported architecture will do: its blocks read and write by linear layers."""

    def prepare(
        self, settings: LlmSurgeonSettings, family: ModelFamily, task: Preparation
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """Nothing to prepare: each shot looks at the model that the last one left."""
        return nothing_to_prepare()

    def regularize(self, settings: LlmSurgeonSettings, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Take the shots, in place, yielding a step each. A checkpoint holds the weights, which are all there is.

        Raises:
            RecipeError: the ratio is less than the smallest row or column.
            Diverged: the loss before a shot is not finite.
        """
        layers = linear_layers(task.model, family)
        _require_something(settings, layers)
        sequences = task.sequences[: settings.calibration_samples]
        keeper: Keeper | None = task.keeper
        state = _state(layers, task.seed)
        done, shots = keeper.load(state) if keeper else 0, settings.shots_taken
        if done:
            yield Step(done, shots, resumed=True, earlier=tuple(state.curve))
        for shot in range(done + 1, shots + 1):
            started = time.monotonic()
            found, loss = curvature_of(task.model, layers, batches(sequences, len(sequences), settings.batch_size))
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} before shot {shot}; take more method.shots, or a lower ratio")
            figures = {"loss": loss, **take_shot(layers, found, settings.ratio * shot / shots, settings)}
            state.curve.append((shot, figures))
            checkpointed = keeper is not None and keeper.due(shot, shots)
            if keeper and checkpointed:
                keeper.save(shot, state)
            yield Step(shot, shots, {**figures, "seconds": time.monotonic() - started}, checkpointed)

    def zero(
        self, settings: LlmSurgeonSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> None:
        """Nothing to do: what goes is zero already."""

    def cut(
        self, settings: LlmSurgeonSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> Narrowed:
        """The model as it is: its shapes stay."""
        return Narrowed(model.config, weights_of(model))


def linear_layers(model: PreTrainedModel, family: ModelFamily) -> Layers:
    """The linear layers of the blocks, by dotted name, in the order of the blocks."""
    return {name: model.get_submodule(name) for name in block_linears(family, model.config)}


@torch.no_grad()
def take_shot(
    layers: Layers, found: dict[str, Curvature], share: float, settings: LlmSurgeonSettings
) -> dict[str, float]:
    """Bring the share of removed elements to `share`, in place; frees each layer's curvature when it is used.

    Returns:
        `removed_fraction` of the elements after the shot; `threshold`, the price of the dearest row or column removed.
    """
    lines = [_lines(layer, found[name], settings.damping) for name, layer in layers.items()]
    chosen, threshold = cheapest(lines, share)
    removed = 0
    for (name, layer), left, (rows, columns) in zip(layers.items(), lines, chosen, strict=True):
        curvature = found.pop(name)
        removed += left.elements - int((~rows).sum()) * int((~columns).sum())
        if rows.any() or columns.any():
            _remove(layer, left, curvature, rows, columns, settings)
    return {"removed_fraction": removed / sum(each.elements for each in lines), "threshold": threshold}


def _lines(layer: nn.Linear, curvature: Curvature, damping: float) -> Lines:
    weight = matrix_of(layer)
    rows, columns = weight.any(1), weight.any(0)
    priced = prices(weight[rows][:, columns], curvature.balanced().of(rows, columns), damping)
    return Lines(rows.cpu(), columns.cpu(), priced[0].cpu(), priced[1].cpu())


def _remove(
    layer: nn.Linear, left: Lines, curvature: Curvature, rows: Tensor, columns: Tensor, settings: LlmSurgeonSettings
) -> None:
    """Take rows and columns, masks over those left, from a layer; what was zero before stays so."""
    device = layer.weight.device
    live_rows, live_columns = left.rows.to(device), left.columns.to(device)
    weight, factors = matrix_of(layer), curvature.balanced().of(live_rows, live_columns)
    live = weight[live_rows][:, live_columns]
    after = without(live, factors, rows.to(device), columns.to(device), settings.damping, settings.joint)
    weight[live_rows.nonzero(), live_columns.nonzero().T] = after
    put_matrix(layer, weight)


def cheapest(layers: list[Lines], share: float) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """The cheapest rows and columns that, with those zero already, hold no more than `share` of all elements.

    Where a row and a column cross, the element counts once.

    Returns:
        for each layer masks over the rows and columns left; the price of the dearest one chosen, 0 if there is none.
    """
    costs = torch.cat([prices for each in layers for prices in (each.row_prices, each.column_prices)])
    order = costs.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    parts = place.split([len(prices) for each in layers for prices in (each.row_prices, each.column_prices)])
    gains = torch.zeros(len(order), dtype=torch.int64)
    for rows, columns in zip(parts[::2], parts[1::2], strict=True):
        places, own = torch.cat([rows, columns]).sort()
        is_row = own < len(rows)
        left = (len(rows) - is_row.cumsum(0)) * (len(columns) - (~is_row).cumsum(0))
        gains[places] = torch.cat([torch.tensor([len(rows) * len(columns)]), left[:-1]]) - left
    removed = sum(each.removed for each in layers) + gains.cumsum(0)
    count = int((removed <= math.floor(share * sum(each.elements for each in layers))).sum())
    chosen = [(rows < count, columns < count) for rows, columns in zip(parts[::2], parts[1::2], strict=True)]
    return chosen, float(costs[order[count - 1]]) if count else 0.0


def _require_something(settings: LlmSurgeonSettings, layers: Layers) -> None:
    elements = sum(layer.weight.numel() for layer in layers.values())
    smallest = min(min(layer.weight.shape) for layer in layers.values())
    if settings.ratio * elements < smallest:
        raise RecipeError(
            "method.ratio",
            f"{settings.ratio} of the {elements:,} elements of the linear layers is less than one row or column of "
            f"{smallest}; ask for at least {smallest / elements:.2g}",
        )


def _state(layers: Layers, seed: int) -> TrainingState:
    """What a checkpoint holds: the layers' parameters. Nothing is optimized, and nothing is drawn."""
    parameters = {
        f"{name}.{kind}": weight for name, layer in layers.items() for kind, weight in layer.named_parameters()
    }
    optimizers = Optimizers(parameters, TrainingSettings(learning_rate=1e-6), seed)
    return TrainingState(parameters, optimizers, torch.amp.GradScaler("cpu", enabled=False))


METHOD = LlmSurgeon()
