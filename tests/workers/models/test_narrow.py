"""Exports that stock code cannot say: the folder alone makes them load, and heads that go along make it needless."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tests.workers.models.trials import CPU, KEPT, PROBE, apart, cut, dense, logits, regularized, settings, zeroed
from tests.workers.models.variants import HEADS, HIDDEN, VARIANTS
from workers import checkpoints, stored_model
from workers.contracts.methods import DressSettings
from workers.contracts.recipe import Recipe
from workers.models.family import family_named, family_of
from workers.models.narrow import register, with_modelling_file
from workers.planning.forecast import sizes_of
from workers.pruning.dress import METHOD

EXACT = 1e-4
NARROW = [name for name in VARIANTS if name.partition("-")[0] in ("opt", "gpt_neox")]
ONE_EACH = ["opt", "gpt_neox"]
RELOADED = [*ONE_EACH, "gpt_neox-without-biases"]
SETTINGS = settings(solver="none")
NATIVE = settings(solver="none", export="native")

FRESH = """
import json, sys, torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

folder, names, with_code = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
asked = load_file(f"{folder}/asked.safetensors")
said = {}
for name in names:
    for attention in ("eager", "sdpa"):
        model, found = AutoModelForCausalLM.from_pretrained(
            f"{folder}/{name}", trust_remote_code=with_code, attn_implementation=attention, output_loading_info=True
        )
        ids = asked["ids"]
        with torch.no_grad():
            apart = (model(ids, use_cache=False).logits - asked[name]).abs().max().item()
        length = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        mask = torch.ones_like(ids)
        cached = model.generate(ids, attention_mask=mask, use_cache=True, **length)
        anew = model.generate(ids, attention_mask=mask, use_cache=False, **length)
        missing, unexpected = (sorted(map(str, found[kind])) for kind in ("missing_keys", "unexpected_keys"))
        said[f"{name} {attention}"] = [apart, torch.equal(cached, anew), missing, unexpected]
    losses = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()(ids, labels=ids, use_cache=False).loss.backward()
        losses.append(model.get_input_embeddings().weight.grad.clone())
    said[f"{name} gradients"] = (losses[0] - losses[1]).abs().max().item()
    model.save_pretrained(f"{folder}/again/{name}")
    again = AutoModelForCausalLM.from_pretrained(f"{folder}/again/{name}", trust_remote_code=with_code).eval()
    with torch.no_grad():
        said[f"{name} again"] = (again(ids).logits - asked[name]).abs().max().item()
print(json.dumps(said))
"""


def fresh(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script where this repository cannot be imported, with a cache of modules of its own."""
    command = [sys.executable, "-I", "-c", script, str(folder), *arguments]
    surroundings = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=surroundings, input="")


def as_narrow(name: str) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """The dense model under the modelling file's config."""
    model = dense(name)
    return with_modelling_file(model.config, f"narrow_{name}"), checkpoints.weights_of(model)


def reloads_everywhere(folder: Path, names: list[str], wanted: DressSettings, *, with_code: bool) -> None:
    """Export, and read back in a fresh process what stock transformers makes of it."""
    asked = {name: logits(cut(regularized(name, wanted), wanted, folder / name)) for name in names}
    save_file({"ids": PROBE, **asked}, folder / "asked.safetensors")
    done = fresh(FRESH, folder, json.dumps(names), json.dumps(with_code))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name in names:
        for attention in ("eager", "sdpa"):
            difference, cache_agrees, missing, unexpected = said[f"{name} {attention}"]
            assert difference < EXACT
            assert cache_agrees
            assert (missing, unexpected) == ([], [])
        assert said[f"{name} gradients"] < EXACT
        assert said[f"{name} again"] < EXACT


def test_the_folder_alone_is_enough(tmp_path: Path) -> None:
    """Attention kernels, cache, checkpointed gradients, and saving again with the modelling file."""
    reloads_everywhere(tmp_path, RELOADED, SETTINGS, with_code=True)
    for name in RELOADED:
        assert any((tmp_path / "again" / name).glob("modeling_narrow_*.py"))


def test_heads_that_go_along_leave_a_stock_model(tmp_path: Path) -> None:
    reloads_everywhere(tmp_path, RELOADED, NATIVE, with_code=False)
    for name in RELOADED:
        assert not any((tmp_path / name).glob("*.py"))
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["architectures"] == [type(dense(name)).__name__]
        assert config["tie_word_embeddings"] is False, "folding the last norm untied the head"
        assert (config["hidden_size"], config["num_attention_heads"]) == (18, 3)
        assert "head_dim" not in config
        assert "auto_map" not in config


TOKENIZER = """
import sys
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1] + "/export", trust_remote_code=True)
print(type(tokenizer).__name__, tokenizer("a b").input_ids)
"""


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_tokenizer_that_names_no_class_is_found(name: str, tmp_path: Path) -> None:
    """Stock code looks its class up by the architecture, which has another name here."""
    folder = tmp_path / "export"
    checkpoints.save_weights(*as_narrow(name), torch.float32, folder)
    letters = {letter: number for number, letter in enumerate(["<unk>", "a", "b", "Ġb", "<|endoftext|>"])}
    Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    done = fresh(TOKENIZER, tmp_path)
    assert done.returncode == 0, done.stderr
    kind, _, ids = done.stdout.partition(" ")
    assert kind.startswith({"opt": "GPT2Tokenizer", "gpt_neox": "GPTNeoXTokenizer"}[name])
    assert json.loads(ids)[0] == letters["a"]


@pytest.mark.parametrize("name", ONE_EACH)
def test_without_the_modelling_file_nothing_is_loaded(name: str, tmp_path: Path) -> None:
    cut(regularized(name, SETTINGS), SETTINGS, tmp_path / name)
    script = (
        "import sys; from transformers import AutoModelForCausalLM as M; M.from_pretrained(sys.argv[1] + sys.argv[2])"
    )
    done = fresh(script, tmp_path, f"/{name}")
    assert done.returncode != 0
    assert "trust_remote_code=True" in done.stderr


@pytest.mark.parametrize("name", NARROW)
def test_zeroed_and_cut_models_agree_without_heads(name: str, tmp_path: Path) -> None:
    model = regularized(name, NATIVE)
    assert apart(logits(cut(model, NATIVE, tmp_path)), logits(zeroed(model, NATIVE))) < EXACT


@pytest.mark.parametrize("solver", ["anneal", "proximal"])
@pytest.mark.parametrize("name", ONE_EACH)
def test_training_drives_heads_and_channels_to_zero(name: str, solver: str, tmp_path: Path) -> None:
    """The cut of what training left is lossless, without zeroing anything first."""
    wanted = settings(solver=solver, export="native", anneal_fraction=0.5, strength=100.0)
    model = regularized(name, wanted)
    assert apart(logits(model), logits(dense(name))) > 100 * EXACT
    assert apart(logits(cut(model, wanted, tmp_path)), logits(model)) < EXACT


@pytest.mark.parametrize("name", NARROW)
def test_the_true_ratio_of_a_native_export_is_foretold(name: str, tmp_path: Path) -> None:
    model = dense(name)
    model.save_pretrained(tmp_path / "dense")
    narrow = cut(regularized(name, NATIVE), NATIVE, tmp_path / "cut")
    recipe = Recipe.model_validate({"model": {"source": "tiny"}, "method": NATIVE.model_dump()})
    predicted = sizes_of(recipe, tmp_path / "dense")["pruned"]
    assert predicted.hidden_size == narrow.config.hidden_size == 18
    assert predicted.parameters == narrow.num_parameters() == stored_model.count_parameters(tmp_path / "cut")


@pytest.mark.parametrize("wanted", [SETTINGS, NATIVE], ids=["auto", "native"])
@pytest.mark.parametrize("name", ONE_EACH)
def test_an_export_can_be_pruned_again(name: str, wanted: DressSettings, tmp_path: Path) -> None:
    first = cut(regularized(name, SETTINGS), SETTINGS, tmp_path / "first")
    family = family_of(first.config)
    assert family.model_type == name
    METHOD.check(wanted, family, first.config)
    second = cut(first, wanted, tmp_path / "second")
    assert second.config.hidden_size < KEPT
    assert second.config.model_type == (name if wanted is NATIVE else f"narrow_{name}")
    METHOD.zero(wanted, family, first, {})
    assert apart(logits(second), logits(first)) < EXACT
    assert stored_model.plain_config(tmp_path / "first").head_dim == HIDDEN // HEADS
    assert family_named(f"narrow_{name}") is family


def test_code_in_a_checkpoint_folder_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    wanted = logits(cut(regularized("opt", SETTINGS), SETTINGS, folder))
    (poisoned,) = folder.glob("*.py")
    poisoned.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(1)\n")
    assert apart(logits(checkpoints.load_model(folder, torch.float32, CPU)), wanted) == 0
    assert checkpoints.load_config(folder).model_type == "narrow_opt"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_the_code_of_the_source_does_not_come_along(name: str, tmp_path: Path) -> None:
    """Its config names files that the export does not have."""
    model = dense(name)
    model.config.auto_map = {"AutoConfig": "configuration_of_theirs.TheirConfig"}
    checkpoints.save_weights(model.config, checkpoints.weights_of(model), torch.float32, tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert model.config.auto_map, "the config in hand stays as it is"


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_full_width_narrow_model_is_the_stock_model(name: str) -> None:
    """The two differ in where sizes come from, in nothing else."""
    stock = dense(name)
    config = stock.config.to_dict()
    del config["model_type"], config["architectures"], config["transformers_version"]
    register()
    for attention in ("eager", "sdpa"):
        narrow: Any = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(f"narrow_{name}", **config), attn_implementation=attention
        ).eval()
        narrow.load_state_dict(stock.state_dict())
        other: PreTrainedModel = dense(name)
        other.set_attn_implementation(attention)
        assert torch.equal(logits(narrow), logits(other))
