"""`dress run` as a person calls it: files, exit status, and nothing imported that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, GPT2Config

from workers.contracts.recipe import Recipe

TRACED = (
    "import sys, json, runpy\n"
    "sys.argv = ['dress run', *sys.argv[1:]]\n"
    "try:\n    runpy.run_module('workers', run_name='__main__')\n"
    "except SystemExit as end:\n    status = end.code\n"
    "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)\n"
    "sys.exit(status)\n"
)


def dress_run(tmp_path: Path, recipe: object) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", TRACED, str(file), "--out", str(tmp_path / "out"), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_recipe_becomes_a_folder(recipe: Recipe, tmp_path: Path) -> None:
    ended = dress_run(tmp_path, recipe.model_dump(mode="json"))
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["results"]["recovered"]["perplexity"]["valid"] > 1
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    imported = set(json.loads(ended.stderr.strip().splitlines()[-1]))
    assert not imported & {"ray", "sqlalchemy", "fastapi", "datasets", "lm_eval", "obstore", "api", "service"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": 1}, "surprise"),
        ({"method": {"kind": "dress", "ratio": 1.5}}, "method.ratio"),
        ({"model": {"source": "/nowhere/at/all"}}, "model.source: there is no folder"),
    ],
)
def test_errors_name_the_field(change: dict, words: str, recipe: Recipe, tmp_path: Path) -> None:
    ended = dress_run(tmp_path, {**recipe.model_dump(mode="json"), **change})
    assert ended.returncode in (1, 2)
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "result.json").exists()


def test_an_unsupported_architecture_is_named(recipe: Recipe, tmp_path: Path) -> None:
    """A model that transformers loads gladly, but whose tensors nobody has described."""
    AutoModelForCausalLM.from_config(
        GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=64, bos_token_id=0, eos_token_id=1)
    ).save_pretrained(tmp_path / "gpt2")
    ended = dress_run(tmp_path, {**recipe.model_dump(mode="json"), "model": {"source": str(tmp_path / "gpt2")}})
    assert ended.returncode == 1
    assert "model.source: the architecture 'gpt2' is not supported" in ended.stderr
    assert "gpt_neox" in ended.stderr, "it says what is supported"
    assert "Traceback" not in ended.stderr


def test_a_folder_that_is_no_earlier_result_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    precious = tmp_path / "out" / "model" / "weights"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    ended = dress_run(tmp_path, recipe.model_dump(mode="json"))
    assert ended.returncode == 2
    assert "name another --out" in ended.stderr
    assert precious.read_text() == "precious"
