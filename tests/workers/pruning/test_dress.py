"""DReSS from preparation to cut on a tiny model: every option runs, and does what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from workers.contracts.methods import DressSettings
from workers.errors import RecipeError
from workers.models.family import family_of
from workers.pruning.dress import METHOD, look
from workers.pruning.method import Preparation, Regularization

KEPT = 24


def settings(**changes: Any) -> DressSettings:
    return DressSettings.model_validate({"ratio": 0.25, "training": {"batch_size": 4}, **changes})


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    tiny_llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sequences() -> torch.Tensor:
    return torch.randint(300, (24, 12), generator=torch.Generator().manual_seed(5))


def prepared(wanted: DressSettings, sequences: torch.Tensor) -> dict[str, torch.Tensor]:
    model = tiny_llama()
    family = family_of(model.config)
    looked = None if wanted.for_covariance() is None else look(wanted, family, model, sequences, 1)
    task = Preparation(model, sequences, seed=1, keeper=None, statistics=looked)
    run = METHOD.prepare(wanted, family, task)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def regularized(
    wanted: DressSettings, dense: Path, sequences: torch.Tensor
) -> tuple[PreTrainedModel, Regularization, list[float]]:
    model = tiny_llama()
    task = Regularization(
        model=model,
        dense_folder=dense,
        prepared=prepared(wanted, sequences),
        sequences=sequences,
        seed=1,
        keeper=None,
        resumed=False,
    )
    losses = [step.metrics["loss"] for step in METHOD.regularize(wanted, family_of(model.config), task)]
    return model.eval(), task, losses


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=torch.arange(30)[None], use_cache=False).logits


def cut(wanted: DressSettings, model: PreTrainedModel) -> PreTrainedModel:
    narrowed = METHOD.cut(wanted, family_of(model.config), model, {})
    narrow = type(model)(narrowed.config).eval()
    narrow.load_state_dict(narrowed.weights, strict=False)
    return narrow


@pytest.mark.parametrize("basis", ["principal", "channels"])
@pytest.mark.parametrize("channels", ["last", "random", "magnitude", "activation"])
@pytest.mark.parametrize("solver", ["anneal", "proximal"])
def test_what_is_driven_to_zero_is_cut_without_loss(
    basis: str, channels: str, solver: str, dense: Path, sequences: torch.Tensor
) -> None:
    wanted = settings(basis=basis, channels=channels, solver=solver, strength=20.0)
    model, task, _losses = regularized(wanted, dense, sequences)
    assert (logits(model) - logits(cut(wanted, model))).abs().max() < 1e-4
    assert not model.model.embed_tokens.weight[:, KEPT:].any()
    record = task.record
    assert all(ratios[0] == 1.0 and ratios[-1] == 0.0 for ratios in record["parameters"].values())
    assert record["steps"][-1] == 6 and len(record["parameters"]["model.norm.weight"]) == len(record["steps"])
    assert set(record["activations"].values()) == {0.0}


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_penalty_alone_lowers_what_goes_and_leaves_some(norm: str, dense: Path, sequences: torch.Tensor) -> None:
    wanted = settings(preset="paper", norm=norm, strength=0.1)
    model, task, _losses = regularized(wanted, dense, sequences)
    last = [ratios[-1] for ratios in task.record["parameters"].values()]
    assert 0.0 < max(last) < 1.0
    everything = settings(preset="paper", norm=norm, strength=0.1, regularized="all")
    other, _task, _losses = regularized(everything, dense, sequences)
    kept = [weight.model.layers[0].mlp.up_proj.weight[:, :KEPT].abs().sum() for weight in (model, other)]
    assert kept[1] < kept[0]


def test_without_a_solver_the_model_is_only_turned(dense: Path, sequences: torch.Tensor) -> None:
    wanted = settings(solver="none")
    model, task, losses = regularized(wanted, dense, sequences)
    assert losses == [] and task.record == {}
    assert (logits(model) - logits(tiny_llama())).abs().max() < 1e-4
    assert cut(wanted, model).config.hidden_size == KEPT


@pytest.mark.parametrize("solver", [{"solver": "elastic"}, {"solver": "penalty", "regularized": "ordered"}])
def test_one_run_serves_every_ratio(solver: dict[str, Any], dense: Path, sequences: torch.Tensor) -> None:
    wanted = settings(**solver, ratio=0.5, elastic_ratios=[0.25, 0.5], refinement=0.5)
    other = settings(**solver, ratio=0.25, elastic_ratios=[0.25, 0.5], refinement=0.5)
    assert wanted.for_regularize() == other.for_regularize() and wanted.for_basis() == other.for_basis()
    assert wanted.for_prune() != other.for_prune()
    larger = settings(**solver, ratio=0.5, elastic_ratios=[0.25, 0.5], refinement=0.5, training={"batch_size": 8})
    assert larger.for_basis() != wanted.for_basis(), "the refinement takes its batches from training"
    model, task, losses = regularized(wanted, dense, sequences)
    assert len(losses) == 6
    other_task = regularized(other, dense, sequences)[1]
    assert task.record == other_task.record and task.record["steps"][-1] == 6
    widths = [cut(each, model).config.hidden_size for each in (wanted, other)]
    assert widths == [16, 24]


def test_refined_axes_and_the_streams_distance_lower_the_loss(dense: Path, sequences: torch.Tensor) -> None:
    plain, refined = (
        regularized(settings(solver="elastic", elastic_ratios=[0.25], refinement=share), dense, sequences)[2]
        for share in (0.0, 1.0)
    )
    assert refined[0] < plain[0]


def test_only_the_refinement_heeds_the_ratio() -> None:
    """What is learnt of the dense model never does; what the refinement does not use is in no key without it."""
    assert settings(ratio=0.5).for_covariance() == settings().for_covariance()
    assert settings(ratio=0.5).for_basis() != settings().for_basis()
    others = {"ratio": 0.5, "refinement_rate": 0.1, "training": {"batch_size": 1}, "round_to": 4}
    for changes in ({"refinement": 0.0}, {"channels": "random"}, {"channels": "magnitude"}, {"basis": "channels"}):
        plain = settings(**changes)
        assert settings(**{**others, **changes}).for_basis() == plain.for_basis()
        assert not plain.refines
    for changes in ({"sensitivity": 0.2}, {"channels": "last"}, {"refinement": 0.1}):
        assert settings(**changes).for_covariance() == settings().for_covariance()
        assert settings(**changes).for_basis() != settings().for_basis()
    assert settings(sensitivity=0.0).for_covariance() != settings().for_covariance(), "gradients cost a pass back"
    assert settings(basis="channels", channels="random").for_covariance() is None, "nothing looks at the model"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ratio": 0.01}, "method.ratio"),
        ({"round_to": 3}, "method.round_to"),
        ({"solver": "elastic", "ratio": 0.5, "elastic_ratios": [0.5, 0.01]}, "method.ratio"),
        ({"solver": "penalty", "regularized": "ordered", "ratio": 0.5, "elastic_ratios": [0.5, 0.01]}, "method.ratio"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_is_loaded(changes: dict[str, Any], field: str) -> None:
    config = tiny_llama().config
    with pytest.raises(RecipeError) as refused:
        METHOD.check(settings(**changes), family_of(config), config)
    assert refused.value.field == field


@pytest.mark.parametrize("solver", ["anneal", "elastic"])
def test_dropping_activations_changes_nothing_of_the_streams_distance(
    solver: str, dense: Path, sequences: torch.Tensor
) -> None:
    """Backward computes the terms of the distance a second time, which must neither be missing nor counted."""
    base = {"solver": solver, "elastic_ratios": [0.25], "refinement": 0.0}
    told = []
    for activation_checkpointing in (False, True):
        training = {"batch_size": 4, "accumulation_steps": 2, "activation_checkpointing": activation_checkpointing}
        model, _, losses = regularized(settings(**base, training=training), dense, sequences)
        told.append((losses, logits(model)))
    assert told[0][0] == pytest.approx(told[1][0], rel=1e-6)
    assert (told[0][1] - told[1][1]).abs().max() < 1e-5
    frugal = {"weights": "bfloat16", "optimizer": "adamw_8bit", "step_in_backward": True, "clip_norm": None}
    frugal |= {"activation_checkpointing": True, "loss_chunk_tokens": 20}
    assert len(regularized(settings(**base, training=frugal), dense, sequences)[2]) == 6


@pytest.mark.parametrize("trained", [False, True])
def test_norms_train_only_where_asked(trained: bool, dense: Path, sequences: torch.Tensor) -> None:
    """Folded gains are ones; held, they still are on what is kept, and the removed part goes to zero all the same."""
    wanted = settings(train_norms=trained)
    model, _, _ = regularized(wanted, dense, sequences)
    family = family_of(model.config)
    gains = [model.get_parameter(slot.parameter) for slot in family.slots(model.config) if slot.role == "norm"]
    assert all(bool((gain[:KEPT] == 1).all()) is not trained for gain in gains)
    assert all(gain[KEPT:].abs().max() == 0 for gain in gains)
