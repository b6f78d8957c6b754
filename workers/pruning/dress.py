"""DReSS: regularize the channels that will go, so that their part moves to the rest; then cut them.

Follows "DReSS: Data-driven Regularized Structured Streamlining for Large Language Models" (Algorithm 1) under
`preset: paper`; `preset: recommended` adds the basis, shrinking to exactly zero and exact norms (METHOD §4).

Legend: d = hidden size, d' = the width kept, R = {d', …, d-1} the channels removed.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.checkpoints import load_teacher
from workers.contracts.methods import DressSettings
from workers.contracts.training import TrainingSettings
from workers.errors import RecipeError
from workers.models.family import ModelFamily, is_rotatable
from workers.models.width import Width, is_principal, width_of
from workers.pruning import basis
from workers.pruning.cut import cut_weights, zero_removed
from workers.pruning.elastic import ElasticWidths
from workers.pruning.groups import Annealing, Penalty, Proximal, RemovedPart
from workers.pruning.method import CHANNELS_CUT, Narrowed, Preparation, Regularization, calibration
from workers.pruning.order import axes_order, channel_order, head_order
from workers.pruning.record import PreservedRatios
from workers.pruning.refine import refined_axes
from workers.pruning.stream_distance import StreamDistance, Target, with_distance
from workers.training.loop import Objective, Rider, Step, steps_of, train
from workers.training.objectives import Parts, distillation, language_modelling


class Dress:
    """See the module."""

    leaves_zeros = False
    cut_in_words = CHANNELS_CUT

    def check(self, settings: DressSettings, family: ModelFamily, config: PreTrainedConfig) -> None:
        """See `Method.check`."""
        _widths(settings, family, config)
        if settings.basis == "principal" and not is_rotatable(family, config):
            raise RecipeError(
                "method.basis",
                f"`principal` is not exact for {family.model_type}, where a norm stands between a layer and the "
                "stream; choose `channels` (with channels: activation) or `auto`",
            )

    def prepare(
        self, settings: DressSettings, family: ModelFamily, task: Preparation
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """Find the basis and the order of what goes: `axes` [d, n] or `order` [d], and `heads` [layers, heads]."""
        model, found = task.model.eval(), {}
        width = width_of(settings, family, model.config)
        if is_principal(settings, family, model.config):
            found["axes"] = yield from _axes(settings, family, task)
        elif settings.channels != "last":
            found["order"] = channel_order(settings.channels, model, family, task.seed, task.statistics)
        if width.heads is not None:
            found["heads"] = head_order(model, family, calibration(task.sequences))
        return found

    def regularize(self, settings: DressSettings, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Steps 1 and 2 of the method. See `Method.regularize`."""
        model = task.model
        training = settings.training.at_width(model.config.hidden_size)
        principal = is_principal(settings, family, model.config)
        _apply(model, family, task.prepared, principal=principal, resumed=task.resumed)
        if not settings.trains:
            return
        # What a run that serves many ratios records is about the narrowest.
        width = min(_widths(settings, family, model.config), key=lambda each: each.channels)
        centred = _is_centred(settings, family, principal)
        removed = RemovedPart(model, family, width.channels, heads_kept=width.heads, centred=centred, folded=principal)
        removed.before = task.extra.setdefault("magnitudes", removed.magnitudes())
        steps = steps_of(len(task.sequences), training)
        probe = next(calibration(task.sequences))
        record = PreservedRatios(removed, model, family, probe, steps, task.extra)
        rider = _rider(settings, family, model, removed, task, steps)
        masks = rider.riding(model, family) if isinstance(rider, ElasticWidths) else nullcontext()
        parts: Parts = {}
        with masks, _objective(settings, family, model, removed, rider, task, parts) as objective:
            for step in train(
                model,
                task.sequences,
                training,
                objective,
                seed=task.seed,
                rider=rider,
                keeper=task.keeper,
                parts=parts,
                held=() if settings.train_norms else _norms(family, model.config),
            ):
                record.after(step)
                yield step
        task.record.update(record.summary())

    def zero(
        self, settings: DressSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> None:
        """See `Method.zero`."""
        centred = _is_centred(settings, family, is_principal(settings, family, model.config))
        zero_removed(model, family, width_of(settings, family, model.config), centred=centred)

    def cut(
        self, settings: DressSettings, family: ModelFamily, model: PreTrainedModel, prepared: dict[str, Tensor]
    ) -> Narrowed:
        """Step 3 of the method. See `Method.cut`."""
        width = width_of(settings, family, model.config)
        return Narrowed(*cut_weights(model, family, width, settings.exact_norms))


def _norms(family: ModelFamily, config: PreTrainedConfig) -> list[str]:
    """The parameters of the norms on the stream."""
    return [slot.parameter for slot in family.slots(config) if slot.role in ("norm", "post_norm")]


def _is_centred(settings: DressSettings, family: ModelFamily, principal: bool) -> bool:
    """Whether the mean over the channels kept goes along with R: LayerNorm takes it over fewer channels after the cut.

    The paper's penalty leaves it, and so does a cut of the channels as they stand: there the cut makes a jump.
    """
    return family.norm == "layer" and (principal or settings.solver in ("anneal", "proximal", "elastic"))


def _widths(settings: DressSettings, family: ModelFamily, config: PreTrainedConfig) -> list[Width]:
    """Every width that the run is to serve."""
    return [width_of(settings, family, config, ratio) for ratio in settings.ratios_served]


def look(
    settings: DressSettings, family: ModelFamily, model: PreTrainedModel, sequences: Tensor, seed: int
) -> basis.StreamStatistics:
    """What every ratio's axes or order start from: what the dense model's stream carries and, for axes, heeds.

    Args:
        sequences: token ids [samples, sequence_length] of the regularize share.
    """
    heeds = settings.sensitivity > 0 and is_principal(settings, family, model.config)
    return basis.stream_statistics(model.eval(), family, calibration(sequences), gradients=heeds, seed=seed)


def _axes(settings: DressSettings, family: ModelFamily, task: Preparation) -> Generator[Step, None, Tensor]:
    """The new axes by falling importance, float64 [d, n]; n = d, or d - 1 for LayerNorm, which drops the mean."""
    assert task.statistics is not None  # noqa: S101  looked at before, see `for_covariance`
    layer = family.norm == "layer"
    matrix = basis.importance(task.statistics, settings.sensitivity)
    axes = basis.centred_axes(matrix) if layer else basis.principal_axes(matrix)
    if settings.channels in ("random", "magnitude"):
        return axes_order(settings.channels, axes, task.model, family, task.seed)
    share = task.sequences[: round(settings.refinement * len(task.sequences))]
    if len(share):
        widths = [width.channels - layer for width in _widths(settings, family, task.model.config)]
        # Adam moves every angle by about its rate; k·(n-k) equal angles turn one direction by √(k·(n-k)) of them.
        rate = settings.refinement_rate / max(math.sqrt(kept * (axes.shape[1] - kept)) for kept in widths)
        training = TrainingSettings(learning_rate=rate, batch_size=settings.training.batch_size, clip_norm=None)
        axes = yield from refined_axes(axes, widths, family, task, share, training)
    return axes


def _apply(
    model: PreTrainedModel, family: ModelFamily, prepared: dict[str, Tensor], *, principal: bool, resumed: bool
) -> None:
    """Put the model into its new basis; a checkpoint holds the weights in it, so then only the head is untied."""
    if principal:
        basis.untie_head(model)
    if resumed:
        return
    if principal:
        axes = prepared["axes"]
        basis.fold_norms(model, family)
        basis.rotate(model, family, basis.embedded(axes) if family.norm == "layer" else axes)
    if "order" in prepared:
        basis.reorder(model, family, prepared["order"])
    if "heads" in prepared:
        basis.reorder_heads(model, family, prepared["heads"])


def _rider(
    settings: DressSettings,
    family: ModelFamily,
    model: PreTrainedModel,
    removed: RemovedPart,
    task: Regularization,
    steps: int,
) -> Rider:
    if settings.solver == "anneal":
        return Annealing(removed, round(settings.anneal_fraction * steps))
    if settings.solver == "proximal":
        sizes = task.extra.setdefault("group_sizes", removed.group_sizes())
        return Proximal(removed, settings.strength, steps, sizes)
    if settings.solver == "elastic":
        widths = [width.channels for width in _widths(settings, family, model.config)]
        return ElasticWidths(widths, model.config.hidden_size, task.seed, centred=removed.centred)
    everything = settings.regularized == "all"
    nested = [width.channels for width in _widths(settings, family, model.config)] if settings.serves_many else []
    return Penalty(removed, settings.norm, settings.strength, everything=everything, widths=nested)


@contextmanager
def _objective(
    settings: DressSettings,
    family: ModelFamily,
    model: PreTrainedModel,
    removed: RemovedPart,
    rider: Rider,
    task: Regularization,
    parts: Parts,
) -> Iterator[Objective]:
    """Cross-entropy, mixed with the divergence to the dense model, plus the distance to its stream, as asked.

    `parts` takes the terms, where there are several.
    """
    chunk = settings.training.loss_chunk_tokens
    if settings.distillation == 0 and settings.stream_distillation == 0:
        yield language_modelling(model, chunk_tokens=chunk)
        return
    teacher = load_teacher(task.dense_folder, model.device)
    objective = distillation(model, teacher, settings.distillation, chunk_tokens=chunk, parts=parts)
    if settings.stream_distillation == 0:
        yield objective
        return
    target = _target(task.prepared, removed, rider, model.device)
    distance = StreamDistance(family, target)
    with distance.watching(model, teacher):
        yield with_distance(objective, distance, settings.stream_distillation, parts)


def _target(prepared: dict[str, Tensor], removed: RemovedPart, rider: Rider, device: torch.device) -> Target:
    """The dense stream in the new basis, on the channels kept; see `StreamDistance`."""
    turn = prepared["axes"].to(device, torch.float32) if "axes" in prepared else None
    if turn is not None and removed.centred:
        turn = basis.embedded(prepared["axes"]).to(device, torch.float32)
    order = prepared["order"].to(device) if "order" in prepared else None

    def target(dense: Tensor) -> tuple[Tensor, Tensor]:
        wanted = dense.float()
        if removed.centred:
            wanted = wanted - wanted.mean(-1, keepdim=True)
        if turn is not None:
            wanted = wanted @ turn
        if order is not None:
            wanted = wanted.index_select(-1, order)
        drawn = rider.mask if isinstance(rider, ElasticWidths) else None
        kept = (torch.arange(wanted.shape[-1], device=device) < removed.kept).float() if drawn is None else drawn
        wanted = wanted * kept
        if removed.centred:
            wanted = wanted - kept * (wanted.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True))
        return wanted, kept

    return target


METHOD = Dress()
