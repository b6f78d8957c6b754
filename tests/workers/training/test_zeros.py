"""Recovery keeps zero rows and columns, bit for bit, and a model's size without them is counted from its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from tests.workers.models.variants import VARIANTS
from workers import checkpoints, stored_model
from workers.contracts.training import LoraTrainingSettings, RecoverWithLora, TrainingSettings
from workers.models.family import block_linears, family_of
from workers.training.adapters import with_adapters
from workers.training.loop import train
from workers.training.objectives import language_modelling
from workers.training.zeros import ZerosKept, nonzero_parameters

SEQUENCES = torch.randint(300, (8, 12), generator=torch.Generator().manual_seed(3))
ROWS, COLUMNS = [0, 3], [1, 2, 7]


def with_zeros(model: PreTrainedModel) -> PreTrainedModel:
    """Zeros in two rows and three columns of every linear layer of the blocks, biases along with the rows."""
    for name in block_linears(family_of(model.config), model.config):
        layer = model.get_submodule(name)
        layer.weight.data[ROWS] = 0
        layer.weight.data[:, COLUMNS] = 0
        if layer.bias is not None:
            layer.bias.data[ROWS] = 0
    return model


def linears(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    return {name: model.get_submodule(name) for name in block_linears(family_of(model.config), model.config)}


def holds(weight: Tensor) -> bool:
    """Whether exactly the rows and columns of `with_zeros` are zero throughout."""
    rows, columns = (~weight.any(1)).nonzero().flatten(), (~weight.any(0)).nonzero().flatten()
    return rows.tolist() == ROWS and columns.tolist() == COLUMNS


def trained(model: PreTrainedModel, settings: TrainingSettings, rider: ZerosKept | None) -> None:
    objective = language_modelling(model)
    assert len(list(train(model, SEQUENCES, settings, objective, seed=0, rider=rider))) == 4


@pytest.mark.parametrize("rate_and_memory", [{}, {"step_in_backward": True, "clip_norm": None}])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_training_everything_keeps_them(weights: str, rate_and_memory: dict[str, object]) -> None:
    model = with_zeros(tiny_llama(attention_bias=True))
    before = {name: layer.weight.clone() for name, layer in linears(model).items()}
    settings = TrainingSettings.model_validate(
        {"learning_rate": 1e-2, "batch_size": 2, "weights": weights, "weight_decay": 0.1, **rate_and_memory}
    )
    trained(model, settings, ZerosKept(model))
    for name, layer in linears(model).items():
        assert holds(layer.weight) and not torch.equal(before[name], layer.weight)
        if layer.bias is not None:
            assert (layer.bias == 0).nonzero().flatten().tolist() == ROWS


def test_merged_adapters_keep_them() -> None:
    model = with_zeros(tiny_llama())
    before = {name: layer.weight.clone() for name, layer in linears(model).items()}
    adapted = with_adapters(model, RecoverWithLora(rank=3), seed=0)
    rider = ZerosKept(adapted)
    trained(adapted, LoraTrainingSettings(learning_rate=1e-2, batch_size=2), rider)
    merged = adapted.merge_and_unload()
    for name, layer in linears(merged).items():
        assert holds(layer.weight) and not torch.equal(before[name], layer.weight)


def test_without_the_rider_they_come_back() -> None:
    model = with_zeros(tiny_llama())
    adapted = with_adapters(model, RecoverWithLora(rank=3), seed=0)
    trained(adapted, LoraTrainingSettings(learning_rate=1e-2, batch_size=2), None)
    assert not any(holds(layer.weight) for layer in linears(adapted.merge_and_unload()).values())


def test_on_a_model_without_zeros_the_rider_changes_nothing() -> None:
    one, other = tiny_llama(), tiny_llama()
    settings = TrainingSettings(learning_rate=1e-2, batch_size=2)
    trained(one, settings, ZerosKept(one))
    trained(other, settings, None)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["llama-tied", "llama-biases", "phi", "phi3", "opt", "gpt_neox", "gemma2"])
def test_what_a_reshaped_model_would_hold_is_counted(name: str, tmp_path: Path) -> None:
    model = with_zeros(VARIANTS[name]())
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), torch.float16, tmp_path)
    family, config = family_of(model.config), checkpoints.load_config(tmp_path)
    wanted = stored_model.count_parameters(tmp_path)
    for layer in linears(model).values():
        rows, columns = layer.weight.shape
        wanted -= rows * columns - (rows - len(ROWS)) * (columns - len(COLUMNS))
        wanted -= len(ROWS) if layer.bias is not None else 0
    assert nonzero_parameters(tmp_path, family, config) == wanted
