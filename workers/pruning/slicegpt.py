"""SliceGPT: rotate what enters every norm to principal axes of its own, and slice the last axes off.

Follows "SliceGPT: Compress Large Language Models by Deleting Rows and Columns" (Ashkboos et al., 2024) and METHOD §7.
Where the paper can be read in two ways, the released program decides: covariances are of the stream before its norm,
the head and what feeds it keep their width, norms divide by d. Where that program changes the dense model's
function, the function is kept: RMSNorm models keep their embeddings' mean, and all models their own epsilon.

Legend: d = hidden size, d' = the width kept, X = the stream before a norm [tokens, d] (LayerNorm: less its mean over
the channels), site s = a norm with its readers, in the order of the layers, Q_s [d, d'] = orthonormal axes of site s.

The artifact has the family's blocks with weightless norms and a matrix Q_sᵀQ_{s+1} [d', d'] on each residual shortcut.
It holds the dense model's matrices at d'/d of their size, those shortcuts (2·d'² a block, Phi d'²), a head of its own
where the dense one was tied, and for LayerNorm a bias for each reader; γ and β are gone. With `slice_head: false` the
last site keeps d: the last block's writers and the head stay as wide as they were, and its last shortcut is [d', d].

The norms divide by the root of Σx²/d, not of Σx²/d': what was sliced off counts as zero, as it does for the readers. So
a token from which nothing was sliced is normalized as before, and slicing nothing changes no logit.

Memory: one float32 model, the stream of all calibration tokens (4·d bytes each, on the CPU), the axes in the model's
type (4·d·d' bytes a site), one block's activations, and matrices [d, d] in float64.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from workers.contracts.rivals import SliceGptSettings
from workers.contracts.widths import width_sliced
from workers.models.family import SLICED, ModelFamily, writer_modules
from workers.models.narrow import with_modelling_file
from workers.models.width import require_sliceable
from workers.pruning.basis import principal_axes
from workers.pruning.calibration_stream import CalibrationStream
from workers.pruning.method import Narrowed, Preparation, Regularization
from workers.pruning.slices import SlicedWeights
from workers.training.loop import Step


class SliceGpt:
    """See the module."""

    leaves_zeros = False
    cut_in_words = "slicing, which has no zeroed model to compare with, changed the logits by at most {cutting}"

    def check(self, settings: SliceGptSettings, family: ModelFamily, config: PreTrainedConfig) -> None:
        """See `Method.check`. Not every family has a modelling file that says the shortcuts."""
        require_sliceable(family)
        _widths(settings, family, config)

    def prepare(
        self, settings: SliceGptSettings, family: ModelFamily, task: Preparation
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """The axes of every site in the order of the layers: `axes.000` [d, d'], …, in the model's type.

        Each step is a block done and tells which share of the stream's energy the axes kept there hold.
        """
        model, config = task.model.eval(), task.model.config
        widths = _widths(settings, family, config)
        sequences = task.sequences[: settings.calibration_samples]
        stream = CalibrationStream(model, _first_block(family, config), sequences, settings.batch_size, family.norm)
        blocks = _blocks(family, config)
        found: list[Tensor] = []

        def keep(states: Iterable[Tensor]) -> float:
            covariance = covariance_of(states)
            axes = damped_axes(covariance, settings.damping)[:, : widths[len(found)]]
            found.append(axes.to(model.dtype).cpu())
            return float(((covariance @ axes) * axes).sum() / covariance.trace())

        for number, (block, halfway) in enumerate(blocks, start=1):
            energy = keep(stream.states())
            stream.project(found[-1])
            if halfway is not None:
                energy = min(energy, keep(stream.halfway(block, halfway)))
                stream.run(block, halfway, found[-1])
            else:
                stream.run(block)
            yield Step(number, len(blocks), {"energy_kept_fraction": energy})
        keep(stream.states())
        return {f"axes.{site:03}": axes for site, axes in enumerate(found)}

    def regularize(self, settings: SliceGptSettings, family: ModelFamily, task: Regularization) -> Iterator[Step]:
        """Nothing to train."""
        yield from ()

    def zero(
        self,
        settings: SliceGptSettings,
        family: ModelFamily,
        model: PreTrainedModel,
        prepared: dict[str, Tensor],
    ) -> None:
        """Nothing: the stream's basis changes from site to site, which the stock architecture cannot say."""

    def cut(
        self,
        settings: SliceGptSettings,
        family: ModelFamily,
        model: PreTrainedModel,
        prepared: dict[str, Tensor],
    ) -> Narrowed:
        """The sliced model, its tensors made when they are asked for. See `Method.cut` and `SlicedWeights`."""
        widths = _widths(settings, family, model.config)
        config = family.narrowed(model.config, widths[0])
        config.tie_word_embeddings = False
        config.dense_hidden_size, config.head_hidden_size = model.config.hidden_size, widths[-1]
        axes = [prepared[name] for name in sorted(prepared)]
        return Narrowed(with_modelling_file(config, SLICED + family.model_type), SlicedWeights(model, family, axes))


def _widths(settings: SliceGptSettings, family: ModelFamily, config: PreTrainedConfig) -> list[int]:
    """The width kept at every site.

    Raises:
        RecipeError: rounding leaves nothing.
    """
    kept = width_sliced(config.hidden_size, settings.ratio, settings.round_to)
    *before, _head = family.sites(config)
    return [kept for _ in before] + [kept if settings.slice_head else config.hidden_size]


def covariance_of(states: Iterable[Tensor]) -> Tensor:
    """H = Σ XᵀX, float64 [d, d], of streams [.., d] (METHOD §7)."""
    total: Tensor | None = None
    for batch in states:
        rows = batch.flatten(0, -2).double()
        total = rows.T @ rows if total is None else total.addmm_(rows.T, rows)
    if total is None:
        raise ValueError("no state was given")
    return total


def damped_axes(covariance: Tensor, damping: float) -> Tensor:
    """Q, float64 [d, d]: eigenvectors of H + damping·mean(diag H)·I by falling eigenvalue (METHOD §7).

    The damping changes no axis; it bounds how far small eigenvalues lie apart, for the solver's sake.
    """
    shift = damping * covariance.diagonal().mean()
    return principal_axes(covariance + shift * torch.eye(len(covariance), dtype=covariance.dtype).to(covariance.device))


def _blocks(family: ModelFamily, config: PreTrainedConfig) -> list[tuple[str, str | None]]:
    """The dotted name of each block, and of the writer after which its second site lies, if it has two."""
    *sites, _head = family.sites(config)
    writers = writer_modules(family, config)
    blocks: list[tuple[str, str | None]] = []
    for block, group in groupby(site.module.rpartition(".")[0] for site in sites):
        is_halved = len(list(group)) > 1
        halfway = next(writer for writer in writers if writer.startswith(f"{block}.")) if is_halved else None
        blocks.append((block, halfway))
    return blocks


def _first_block(family: ModelFamily, config: PreTrainedConfig) -> str:
    return _blocks(family, config)[0][0]


METHOD = SliceGpt()
