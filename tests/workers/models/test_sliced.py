"""Sliced models' modelling files: the folder alone makes them load, and unsliced they are the stock models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.workers.models.test_narrow import FRESH, fresh
from tests.workers.models.trials import CPU, PROBE, SEQUENCES, NoKeeper, apart, dense, logits, result_of
from tests.workers.models.variants import HEADS, HIDDEN
from workers import checkpoints, stored_model
from workers.contracts.rivals import SliceGptSettings
from workers.models.family import family_of
from workers.models.narrow import MODELS, register
from workers.pruning.method import Preparation
from workers.pruning.slicegpt import METHOD

EXACT = 1e-4
FAMILIES = ("llama", "opt", "phi")
SHORTCUTS = {"llama": 4, "opt": 4, "phi": 2}
"""Of two blocks."""
SETTINGS = SliceGptSettings(ratio=0.25, round_to=1)
KEPT = 18
"""Not a multiple of the heads."""


def export(name: str, folder: Path, settings: SliceGptSettings = SETTINGS) -> PreTrainedModel:
    """The sliced model as it is read back from disk."""
    model = dense(name)
    family = family_of(model.config)
    axes = result_of(METHOD.prepare(settings, family, Preparation(model, SEQUENCES, 0, NoKeeper())))
    narrowed = METHOD.cut(settings, family, model, axes)
    checkpoints.save_weights(narrowed.config, narrowed.weights, torch.float32, folder)
    return checkpoints.load_model(folder, torch.float32, CPU).eval()


def test_the_folder_alone_is_enough(tmp_path: Path) -> None:
    """Attention kernels, cache, checkpointed gradients, and saving again, in a process without this project."""
    asked = {name: logits(export(name, tmp_path / name)) for name in FAMILIES}
    save_file({"ids": PROBE, **asked}, tmp_path / "asked.safetensors")
    done = fresh(FRESH, tmp_path, json.dumps(FAMILIES), json.dumps(True))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name in FAMILIES:
        for attention in ("eager", "sdpa"):
            difference, cache_agrees, missing, unexpected = said[f"{name} {attention}"]
            assert difference < EXACT
            assert cache_agrees
            assert (missing, unexpected) == ([], [])
        assert said[f"{name} gradients"] < EXACT
        assert said[f"{name} again"] < EXACT
        assert (tmp_path / "again" / name / f"modeling_sliced_{name}.py").is_file()


@pytest.mark.parametrize("name", FAMILIES)
def test_without_the_modelling_file_nothing_is_loaded(name: str, tmp_path: Path) -> None:
    export(name, tmp_path / name)
    script = (
        "import sys; from transformers import AutoModelForCausalLM as M; M.from_pretrained(sys.argv[1] + sys.argv[2])"
    )
    done = fresh(script, tmp_path, f"/{name}")
    assert done.returncode != 0
    assert "trust_remote_code=True" in done.stderr


@pytest.mark.parametrize("name", FAMILIES)
def test_a_made_model_starts_with_shortcuts_that_do_nothing(name: str, tmp_path: Path) -> None:
    config = export(name, tmp_path).config
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config)
    shortcuts = [weight for key, weight in made.named_parameters() if key.endswith("_shortcut")]
    assert len(shortcuts) == SHORTCUTS[name]
    assert all(torch.equal(weight, torch.eye(*weight.shape)) for weight in shortcuts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_sixteen_bits_give_what_they_can_hold(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    wanted = logits(export(name, tmp_path))
    given = logits(checkpoints.load_model(tmp_path, dtype, CPU).eval())
    assert given.dtype == dtype
    spread = wanted.std()
    assert (given.float() - wanted).square().mean().sqrt() < 0.1 * spread


@pytest.mark.parametrize("name", FAMILIES)
def test_the_config_says_every_width(name: str, tmp_path: Path) -> None:
    export(name, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == f"sliced_{name}"
    assert (written["hidden_size"], written["dense_hidden_size"], written["head_hidden_size"]) == (KEPT, HIDDEN, HIDDEN)
    assert written["head_dim"] == HIDDEN // HEADS
    assert written["tie_word_embeddings"] is False
    shapes = {key: tensor.shape for key, tensor in stored_model.parameters(tmp_path).items()}
    shortcuts = {shape for key, shape in shapes.items() if key.endswith("_shortcut")}
    assert shortcuts == {(KEPT, KEPT), (KEPT, HIDDEN)}
    assert not any("norm" in key for key in shapes)


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_and_their_streams_are_told(name: str, tmp_path: Path) -> None:
    """`output_hidden_states` finds the blocks though their classes are others."""
    model = export(name, tmp_path)
    with torch.no_grad():
        told = model(input_ids=PROBE, use_cache=False, output_hidden_states=True).hidden_states
    assert [states.shape[-1] for states in told] == [KEPT, KEPT, HIDDEN]


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_on_the_left_changes_nothing(name: str, tmp_path: Path) -> None:
    model = export(name, tmp_path)
    padded = torch.cat([torch.zeros(len(PROBE), 5, dtype=torch.long), PROBE], 1)
    mask = torch.ones_like(padded)
    mask[:, :5] = 0
    with torch.no_grad():
        given = model(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0)).logits
    assert apart(given[:, 5:], logits(model)) < EXACT


def test_every_file_is_registered() -> None:
    register()
    assert {f"sliced_{name}" for name in FAMILIES} <= set(MODELS)
