"""Models on disk: what is refused instead of being filled in, what counts, and what a damaged checkpoint costs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from workers import checkpoints
from workers.contracts.places import Places
from workers.contracts.recipe import ModelSettings
from workers.errors import RecipeError, Transient
from workers.local_store import LocalStore

CPU = torch.device("cpu")
KEY = "cd" * 32


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    model = tiny_llama(tie_word_embeddings=request.param)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_counts_are_the_models(saved: tuple[PreTrainedModel, Path]) -> None:
    model, folder = saved
    assert checkpoints.count_parameters(folder) == model.num_parameters()
    save_file({"again": torch.zeros(9)}, folder / "consolidated.safetensors")
    assert checkpoints.count_parameters(folder) == model.num_parameters()
    assert checkpoints.load_model(folder, torch.float32, CPU).num_parameters() == model.num_parameters()


def test_a_missing_tensor_is_not_made_up(saved: tuple[PreTrainedModel, Path]) -> None:
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="down_proj"):
        checkpoints.load_model(folder, torch.float32, CPU)


def test_the_digest_is_of_the_tensors_not_of_the_files(saved: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, folder = saved
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(checkpoints.weight_files(tmp_path / "sharded")) > 1
    assert checkpoints.weights_digest(tmp_path / "sharded") == checkpoints.weights_digest(folder)


def test_an_unknown_architecture_is_the_recipes_fault(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "of_the_future"}')
    with pytest.raises(RecipeError, match="of_the_future"):
        checkpoints.load_config(tmp_path)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, RecipeError), (404, RecipeError), (429, Transient), (503, Transient), (None, Transient)]
)
def test_the_hubs_answers_are_classed(status: int | None, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        if status is None:
            raise LocalEntryNotFoundError("no network")
        request = httpx2.Request("GET", "http://hub")
        raise HfHubHTTPError("no", response=httpx2.Response(status, request=request))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(kind):
        checkpoints.locate(ModelSettings(source="owner/name"), Places())


def test_a_damaged_checkpoint_is_dropped(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    kept = checkpoints.TrainingCheckpoints(store, KEY, tmp_path / "one", every_steps=1)
    assert kept.found() is None
    weight = torch.nn.Parameter(torch.ones(3))
    moments = SimpleNamespace(state={weight: {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}})
    kept.save(4, {"weight": weight}, moments)
    assert checkpoints.TrainingCheckpoints(store, KEY, tmp_path / "two", every_steps=1).found() == 4
    (damaged,) = (tmp_path / "store" / "checkpoints" / KEY).glob("*/moments.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:20])
    assert checkpoints.TrainingCheckpoints(store, KEY, tmp_path / "three", every_steps=1).found() is None
    assert store.load_checkpoint(KEY, tmp_path / "four") is None
