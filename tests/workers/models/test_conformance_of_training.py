"""What trains, for every family: each solver keeps its promise at the cut, masks are cuts, runs repeat to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from tests.workers.models.trials import (
    FIRST,
    FIRST_ROTATABLE,
    KEPT,
    RATIO,
    SEQUENCES,
    apart,
    cut,
    dense,
    logits,
    prepared,
    regularized,
    settings,
    trained,
    zeroed,
)
from tests.workers.models.variants import HIDDEN
from workers.contracts.methods import DressSettings
from workers.models.family import family_of, is_tied
from workers.pruning.elastic import ElasticWidths
from workers.pruning.groups import RemovedPart

EXACT = 1e-4
SOLVERS: dict[str, dict[str, Any]] = {
    "anneal": {"solver": "anneal", "anneal_fraction": 0.7},
    "proximal": {"solver": "proximal", "strength": 100.0},
    "penalty-l1": {"solver": "penalty", "norm": "l1"},
    "penalty-l2": {"solver": "penalty", "norm": "l2", "regularized": "all"},
    "penalty-ordered": {"solver": "penalty", "regularized": "ordered", "strength": 0.1},
    "elastic": {"solver": "elastic"},
}
REACH_ZERO = ("anneal", "proximal")
BASES = [*((name, "channels") for name in FIRST), *((name, "principal") for name in FIRST_ROTATABLE)]


def is_exact(name: str, basis: str, solver: str) -> bool:
    """Whether zeroed and cut models are promised to agree.

    On LayerNorm's own channels the paper's penalty leaves a mean that jumps, and `elastic` drives nothing to zero, so
    that zeroing what the embedding writes would change a head that is the same tensor.
    """
    config = dense(name).config
    if basis == "principal" or family_of(config).norm == "rms" or solver in REACH_ZERO:
        return True
    return solver == "elastic" and not is_tied(config)


def lost_shift(model: PreTrainedModel, differences: Tensor) -> Tensor:
    """What no head that is the embedding can keep: a logit a token, the same at every position.

    It is what the final β sends through the channels removed, where nothing drove them to zero; [..., 1, vocabulary].
    """
    tied_shift = is_tied(model.config) and family_of(model.config).norm == "layer"
    return differences.mean(-2, keepdim=True) if tied_shift else torch.zeros(1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("name", "basis"), BASES)
def test_a_solver_keeps_its_promise(name: str, basis: str, solver: str, tmp_path: Path) -> None:
    wanted = settings(basis=basis, **SOLVERS[solver])
    done = trained(name, wanted)
    model, record = done.model, done.record
    family = family_of(model.config)
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert record["steps"] == [0, 1, 2, 3]
    assert all(len(ratios) == 4 and ratios[0] == 1.0 for ratios in record["parameters"].values())
    removed = RemovedPart(model, family, KEPT, centred=basis == "principal" and family.norm == "layer")
    assert bool(removed.magnitudes().any()) == (solver not in REACH_ZERO)
    if is_exact(name, basis, solver):
        narrow, wide = logits(cut(model, wanted, tmp_path)), logits(zeroed(model, wanted))
        assert apart(narrow, wide) < EXACT
        assert (apart(wide, logits(model)) < EXACT) == (solver in REACH_ZERO)


@pytest.mark.parametrize(("name", "basis"), BASES)
def test_the_model_masked_at_a_width_is_the_model_cut_there(name: str, basis: str, tmp_path: Path) -> None:
    ratios = [1 / 2, 1 / 3, 1 / 6]
    wanted = [settings(basis=basis, ratio=ratio, elastic_ratios=ratios, solver="none") for ratio in ratios]
    model = regularized(name, wanted[0])
    family = family_of(model.config)
    narrow = [cut(model, each, tmp_path / str(each.ratio)) for each in wanted]
    widths = [each.config.hidden_size for each in narrow]
    assert len(set(widths)) == 3
    rider = ElasticWidths(widths, HIDDEN, 0, centred=family.norm == "layer")
    rider.before_step(0)
    with rider.riding(model, family):
        masked = logits(model.train())
        assert apart(logits(model.eval()), masked) > 0.01, "evaluation passes are not masked"
    cuts = torch.stack([logits(each) for each in narrow])  # [widths, sequences, length, vocabulary]
    differences = cuts - masked
    distances = (differences - lost_shift(model, differences)).abs().amax((2, 3))
    assert distances.min(0).values.max() < EXACT
    assert sorted(distances.argmin(0).tolist()) == [0, 1, 2], "each width is drawn once"


def divergence(name: str, wanted: DressSettings) -> float:
    """KL of the model without the last axes from the dense one, in nats a token."""
    given = logits(zeroed(regularized(name, wanted), wanted), SEQUENCES)
    dense_ones = logits(dense(name), SEQUENCES)
    return F.kl_div(given.log_softmax(-1), dense_ones.log_softmax(-1), log_target=True, reduction="sum").item() / 240


@pytest.mark.parametrize("name", FIRST_ROTATABLE)
def test_refining_improves_what_it_descends(name: str) -> None:
    """Measured on the model that the axes lead to, not on the objective's own code."""
    plain = settings(basis="principal", solver="none")
    refining = {"refinement": 1.0, "refinement_rate": 0.2, "training": {"batch_size": 1}}
    refined = settings(basis="principal", solver="none", **refining)
    axes, before = prepared(dense(name), refined)["axes"], prepared(dense(name), plain)["axes"]
    assert axes.shape == before.shape
    assert apart(axes.T @ axes, torch.eye(axes.shape[1], dtype=axes.dtype)) < 1e-9
    if axes.shape[1] < len(axes):
        assert axes.sum(0).abs().max() < 1e-9, "LayerNorm lets nothing through along the mean"
    assert divergence(name, refined) < 0.95 * divergence(name, plain)


@pytest.mark.parametrize("name", FIRST)
def test_the_recommended_preset_repeats_to_the_bit(name: str, tmp_path: Path) -> None:
    """With everything on: sensitivity, refinement, and the dense model as a teacher of logits and stream."""
    dense(name).save_pretrained(tmp_path / "dense")
    wanted = DressSettings.model_validate({"ratio": RATIO, "training": {"batch_size": 4}})
    models = [trained(name, wanted, tmp_path / "dense").model for _ in range(2)]
    first, second = (cut(model, wanted, tmp_path / each) for model, each in zip(models, "ab", strict=True))
    weights = dict(second.named_parameters())
    assert all(weight.isfinite().all() for weight in weights.values())
    assert all(torch.equal(weight, weights[name]) for name, weight in first.named_parameters())


@pytest.mark.parametrize(("name", "basis"), BASES)
def test_the_stream_begins_where_the_teachers_is(name: str, basis: str, tmp_path: Path) -> None:
    """The distance to the teacher's stream, which is turned as the weights are, adds nothing to the first loss.

    LayerNorm's principal axes are the exception: the mean over the channels kept goes with the channels removed.
    """
    dense(name).save_pretrained(tmp_path)
    alone = settings(basis=basis, solver="penalty", strength=0.0)
    watched = alone.model_copy(update={"stream_distillation": 1.0})
    without, along = trained(name, alone).losses, trained(name, watched, tmp_path).losses
    loses_mean = basis == "principal" and family_of(dense(name).config).norm == "layer"
    assert along[0] == pytest.approx(without[0], abs=0.05 if loses_mean else 1e-5)
    assert along[1] > without[1] + 1e-5, "the first update moves the stream"
