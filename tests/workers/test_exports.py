"""From a recipe to the folder a user downloads, for an architecture whose stock code derives the head size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from tests.conftest import changed
from tests.workers.models.variants import tiny
from workers import checkpoints, pipeline, stored_model
from workers.contracts.events import ArtifactStored, Notice, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.local_store import LocalStore
from workers.model_card import model_card

EXACT = 1e-4
CARD = "---\nlicense: other\nlicense_name: opt-175b\nlicense_link: LICENSE.md\n---\n# The base model\n"


@pytest.fixture(scope="module")
def opt(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with an OPT of two layers, a tokenizer, a card and a licence."""
    folder = tmp_path_factory.mktemp("tiny-opt")
    PreTrainedTokenizerFast.from_pretrained(checkpoint).save_pretrained(folder)
    tiny("opt", ffn_dim=33, vocab_size=300, dropout=0.0).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE.md").write_text("You may.")
    return folder


def downloaded(recipe: Recipe, folder: Path) -> tuple[Path, Results, list[str]]:
    """The artifact of a recipe run in this process, its results, and what was noticed on the way."""
    (folder / "workspace").mkdir(parents=True)
    store = LocalStore(folder / "store")
    events = list(pipeline.run(recipe, store, folder / "workspace", Places(), owner="here"))
    (stored,) = (event for event in events if isinstance(event, ArtifactStored))
    for file in stored.files:
        store.fetch(file, folder / "artifact")
    assert isinstance(events[-1], Succeeded)
    notices = [event.message for event in events if isinstance(event, Notice)]
    return folder / "artifact" / "model", events[-1].results, notices


@pytest.mark.parametrize("export", ["auto", "native"])
def test_the_artifact_says_how_to_load_it_and_whose_it_is(
    opt: Path, recipe: Recipe, export: str, tmp_path: Path
) -> None:
    wanted = changed(recipe, model__source=str(opt), method__export=export, method__ratio=0.4)
    folder, results, notices = downloaded(wanted, tmp_path)
    (jumps,) = (re.findall(r"by at most (\S+?),? ?(?:and|$)", notice) for notice in notices if "zero" in notice)
    assert [float(jump) < EXACT for jump in jumps] == [True, True], "training drove all that goes to zero"
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "other"
    assert front["license_name"] == "opt-175b"
    assert (folder / "LICENSE.md").read_text() == "You may."
    codes = [file.name for file in folder.glob("*.py")]
    config = json.loads((folder / "config.json").read_text())
    if export == "auto":
        assert codes == ["modeling_narrow_opt.py"]
        assert "trust_remote_code=True" in card
        assert (config["hidden_size"], config["num_attention_heads"], config["head_dim"]) == (14, 4, 6)
    else:
        assert codes == []
        assert "no remote code is needed" in card
        assert (config["model_type"], config["hidden_size"], config["num_attention_heads"]) == ("opt", 12, 2)
    model = checkpoints.load_model(folder, torch.float32, torch.device("cpu"))
    assert results.recovered is not None
    assert results.recovered.parameters == model.num_parameters() == stored_model.count_parameters(folder)
    assert f"{model.num_parameters():,}" in card
    assert f"recovered: `{stored_model.weights_digest(folder)}`" in card
    assert f"dense: `{stored_model.weights_digest(opt)}`" in card


def test_a_card_is_readable_whatever_the_licence_says(recipe: Recipe) -> None:
    """Values from a stranger's card are quoted: none adds a field or ends the front matter."""
    licence = {"license": "x\n---\nbase_model: evil", "license_link": "a: b # c"}
    card = model_card(recipe, Results(), "0" * 64, licence)
    front = yaml.safe_load(card.removeprefix("---\n").split("\n---\n# ")[0])
    assert {name: front[name] for name in licence} == licence
    assert "base_model" not in front, "the source is a folder"
    assert front["tags"] == ["pruned", "structured-pruning", "dress"]
