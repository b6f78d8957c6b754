"""One suite for every family: slots are complete, bases are exact, cuts are lossless where they promise it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.conftest import tiny_llama
from workers import checkpoints
from workers.models.family import family_of
from workers.pruning.basis import fold_norms, principal_axes, rotate, stream_covariance, untie_head
from workers.pruning.cut import cut_weights, zero_removed

VARIANTS = {
    "llama": {},
    "llama, tied head": {"tie_word_embeddings": True},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, heads wider than the stream": {"head_dim": 16},
    "llama, one key-value head": {"num_key_value_heads": 1},
}
INNER = ("q_proj.bias", "k_proj.bias", "v_proj.bias", "gate_proj.bias", "up_proj.bias")
KEPT = 20


@pytest.fixture(params=VARIANTS, ids=lambda name: name.replace(" ", "-"))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_llama(**VARIANTS[request.param])


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(300, (3, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


def to_principal_axes(model: PreTrainedModel, ids: torch.Tensor) -> None:
    family = family_of(model.config)
    untie_head(model)
    fold_norms(model, family)
    rotate(model, family, principal_axes(stream_covariance(model, family, [ids])))


def saved_cut(model: PreTrainedModel, folder: Path, exact_norms: bool) -> PreTrainedModel:
    config, weights = cut_weights(model, family_of(model.config), KEPT, exact_norms)
    checkpoints.save_weights(config, weights, torch.float32, folder)
    return checkpoints.load_model(folder, torch.float32, torch.device("cpu"))


def test_every_parameter_is_a_slot_or_inner(model: PreTrainedModel) -> None:
    slots = {slot.parameter: slot for slot in family_of(model.config).slots(model.config)}
    for name, weight in model.named_parameters():
        if name in slots:
            assert weight.shape[slots.pop(name).axis] == model.config.hidden_size
        else:
            assert name.endswith(INNER)
    assert not slots, "a slot names a parameter that the model does not have"


def test_every_reader_stands_behind_exactly_one_norm(model: PreTrainedModel) -> None:
    family = family_of(model.config)
    untie_head(model)
    behind = [f"{reader}.weight" for site in family.norm_sites(model.config) for reader in site.readers]
    readers = [slot.parameter for slot in family.slots(model.config) if slot.role == "reader"]
    assert sorted(behind) == sorted(readers)


def test_folding_and_rotating_leave_the_logits_unchanged(model: PreTrainedModel, ids: torch.Tensor) -> None:
    before = logits(model, ids)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    to_principal_axes(model, ids)
    assert (logits(model, ids) - before).abs().max() < 1e-4
    assert not torch.allclose(weights["model.embed_tokens.weight"], model.model.embed_tokens.weight, atol=1e-2)


def test_principal_axes_put_the_variance_first(model: PreTrainedModel, ids: torch.Tensor) -> None:
    family = family_of(model.config)
    to_principal_axes(model, ids)
    covariance = stream_covariance(model, family, [ids])
    variances = covariance.diagonal()
    assert (variances[:-1] - variances[1:]).min() > -1e-4
    assert (covariance - torch.diag(variances)).abs().max() < 1e-4


@pytest.mark.parametrize("basis", ["channels", "principal"])
def test_zeroed_and_cut_models_agree(model: PreTrainedModel, ids: torch.Tensor, basis: str, tmp_path: Path) -> None:
    if basis == "principal":
        to_principal_axes(model, ids)
    narrow = saved_cut(model, tmp_path, exact_norms=True)
    zero_removed(model, family_of(model.config), KEPT)
    assert (logits(narrow, ids) - logits(model, ids)).abs().max() < 1e-4


def test_a_plain_cut_jumps(model: PreTrainedModel, ids: torch.Tensor, tmp_path: Path) -> None:
    """The paper's cut leaves the norms' statistics behind; were the tests above blind, this one would fail."""
    narrow = saved_cut(model, tmp_path, exact_norms=False)
    zero_removed(model, family_of(model.config), KEPT)
    assert (logits(narrow, ids) - logits(model, ids)).abs().max() > 1e-2


def test_the_cut_model_has_the_predicted_size(model: PreTrainedModel, tmp_path: Path) -> None:
    width = model.config.hidden_size
    slots = {slot.parameter for slot in family_of(model.config).slots(model.config)}
    predicted = sum(
        weight.numel() * KEPT // width if name in slots else weight.numel() for name, weight in model.named_parameters()
    )
    narrow = saved_cut(model, tmp_path, exact_norms=True)
    assert narrow.num_parameters() == predicted == checkpoints.count_parameters(tmp_path)
    assert narrow.config.hidden_size == KEPT


def test_generation_with_and_without_the_cache_agrees(
    model: PreTrainedModel, ids: torch.Tensor, tmp_path: Path
) -> None:
    narrow = saved_cut(model, tmp_path, exact_norms=True)
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    cached = narrow.generate(ids, attention_mask=mask, use_cache=True, **settings)
    assert torch.equal(cached, narrow.generate(ids, attention_mask=mask, use_cache=False, **settings))


def test_stock_transformers_reloads_the_exports_in_a_fresh_process(ids: torch.Tensor, tmp_path: Path) -> None:
    wanted = {}
    for number, changes in enumerate(VARIANTS.values()):
        narrow = saved_cut(tiny_llama(**changes), tmp_path / str(number), exact_norms=True)
        wanted[str(number)] = logits(narrow, ids)[0, -1].tolist()
    script = (
        "import json, sys, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "ids = torch.tensor(json.loads(sys.argv[2]))\n"
        "load = lambda name: AutoModelForCausalLM.from_pretrained(f'{sys.argv[1]}/{name}', dtype=torch.float32)\n"
        "with torch.no_grad():\n"
        "    print(json.dumps({name: load(name)(ids).logits[0, -1].tolist() for name in sys.argv[3:]}))\n"
    )
    command = [sys.executable, "-I", "-c", script, str(tmp_path), json.dumps(ids.tolist()), *wanted]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    for name, given in json.loads(printed).items():
        assert torch.allclose(torch.tensor(given), torch.tensor(wanted[name]), atol=1e-4)
