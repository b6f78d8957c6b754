"""The files of `deploy/recipes`: all of the paper's values, the controls, and one of them run on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.__main__ import main
from workers.contracts.controls import DENSE, PLAIN, ROTATED
from workers.contracts.recipe import parse_yaml
from workers.contracts.study import Row, Study, expand

FOLDER = Path(__file__).parents[1] / "deploy" / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))
RIVALS = "table1-rivals"
LLAMAS = ["meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"]
OPTS = ["facebook/opt-2.7b", "facebook/opt-6.7b", "facebook/opt-13b"]


def study(name: str) -> Study:
    return Study.model_validate(parse_yaml((FOLDER / f"{name}.yaml").read_text("utf-8")))


def rows(name: str) -> list[Row]:
    """What the paper has; the controls are left out."""
    return [row for row in expand(study(name)) if not row.is_control]


def values(name: str, field: str) -> list[Any]:
    """A field of every row's recipe, in order."""
    found = []
    for row in rows(name):
        value: Any = row.recipe
        for part in field.split("."):
            value = getattr(value, part)
        found.append(value)
    return found


def test_every_table_and_figure_has_its_file() -> None:
    wanted = {f"table{number}" for number in range(1, 7)} | {f"figure{number}" for number in range(3, 6)}
    wanted |= {RIVALS}
    assert {file.stem for file in FILES} == wanted
    listed = (FOLDER / "README.md").read_text("utf-8")
    assert all(f"[{name}.yaml]({name}.yaml)" in listed for name in wanted)


@pytest.mark.parametrize("file", [file for file in FILES if file.stem != RIVALS], ids=lambda file: file.stem)
def test_every_row_is_a_recipe_and_has_its_controls(file: Path) -> None:
    expanded = expand(study(file.stem))
    titles = [row.name.partition(" (")[0] for row in expanded if row.is_control]
    assert set(titles) == {DENSE, ROTATED, PLAIN}
    asked = [row.recipe for row in expanded if not row.is_control]
    corpora = {(recipe.model.source, recipe.data.name, recipe.data.samples) for recipe in asked}
    cuts = {(recipe.model.source, recipe.data.name, recipe.data.samples, recipe.method.ratio) for recipe in asked}
    assert titles.count(DENSE) == len(corpora)
    assert titles.count(ROTATED) == titles.count(PLAIN) == len(cuts)
    for row in expanded:
        assert row.recipe.data.sequence_length is None, "so that a small model needs no other change"
        assert row.is_control or (row.recipe.method.kind, row.recipe.method.preset) == ("dress", "paper")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_comments_say_what_to_change(file: Path) -> None:
    comment = [line for line in file.read_text("utf-8").splitlines()[:4] if line.startswith("#")]
    assert 2 <= len(comment) <= 3 and "For a small model" in " ".join(comment)


def test_table_1_has_six_models_and_both_norms() -> None:
    assert set(values("table1", "model.source")) == {"microsoft/phi-2", *OPTS, *LLAMAS}
    assert len(rows("table1")) == 12
    assert set(values("table1", "method.norm")) == {"l1", "l2"} and set(values("table1", "method.ratio")) == {0.25}
    assert (set(values("table1", "data.samples")), set(values("table1", "data.split"))) == ({1000}, {"3:1"})
    assert set(values("table1", "method.strength")) == {1e-3}


def test_table_1_with_its_rivals_treats_all_alike() -> None:
    expanded = expand(study(RIVALS))
    asked = [row for row in expanded if not row.is_control]
    assert {row.recipe.model.source for row in asked} == {"microsoft/phi-2", *OPTS, *LLAMAS}
    of_one = {row.name.removeprefix("Llama-2-7b-hf, "): row.recipe for row in asked if "Llama-2-7b" in row.name}
    assert len(of_one) == 9 and len(asked) == 6 * 9
    kinds = [recipe.method.kind for recipe in of_one.values()]
    assert kinds == ["dense", "llm_surgeon", "slicegpt", "sleb", "magnitude", "random", "dress", "dress", "dress"]
    assert {getattr(recipe.method, "ratio", 0.25) or 0.25 for recipe in of_one.values()} == {0.25}
    for name, recipe in of_one.items():
        assert recipe.data.split == ("3:1" if recipe.method.trains else "0:1"), name
        assert recipe.recover.kind == ("none" if name == "dense" else "lora")
        assert recipe.evaluate.speed and [task.name for task in recipe.evaluate.tasks] == ["paper_zero_shot"]
        assert recipe.data.sequence_length is None and recipe.data.samples == 1000
    published = [of_one[f"DReSS as published, {norm}"].method for norm in ("l1", "l2")]
    assert [(each.preset, each.norm, each.strength) for each in published] == [
        ("paper", "l1", 1e-3),
        ("paper", "l2", 1e-3),
    ]
    controls = [row.name for row in expanded if row.is_control and "Llama-2-7b" in row.name]
    assert [name.partition(" (")[0] for name in controls] == [DENSE, ROTATED, ROTATED, PLAIN, PLAIN]
    assert sum("distillation 0.5" in name for name in controls) == 2, "one pair as each preset trains"


def test_table_2_measures_speed_at_two_ratios() -> None:
    pairs = list(zip(values("table2", "model.source"), values("table2", "method.ratio"), strict=True))
    assert pairs == [(model, ratio) for model in ("facebook/opt-13b", LLAMAS[1]) for ratio in (0.25, 0.5)]
    assert all(values("table2", "evaluate.speed"))


def test_the_ranges_are_the_papers() -> None:
    assert values("table3", "data.samples") == [500, 1000, 2000, 4000, 8000]
    assert values("table5", "data.split") == ["4:1", "3:1", "2:1", "1:1", "1:2", "1:3"]
    assert values("table6", "method.strength") == [1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1]
    assert values("figure4", "method.ratio")[0] == 0.2 and values("figure4", "method.ratio")[-1] == 0.6
    assert values("figure5", "data.name") == ["alpaca", "wikitext2", "ptb", "c4"]
    for name in ("table3", "table5", "table6", "figure3", "figure4", "figure5"):
        assert set(values(name, "model.source")) == {LLAMAS[0]}


def test_table_4_leaves_out_one_part_a_row() -> None:
    recipes = {row.name: row.recipe for row in rows("table4")}
    assert len(recipes) == 10
    for model in ("Llama-2-7b-hf", "Llama-2-13b-hf"):
        assert recipes[f"{model}, DReSS"].method.regularized == "removed"
        assert recipes[f"{model}, w FPR"].method.regularized == "all"
        assert recipes[f"{model}, w/o R"].method.solver == "none"
        assert recipes[f"{model}, w/o R, random channels"].method.channels == "random"
        assert recipes[f"{model}, w/o RFT"].recover.kind == "none"


def test_a_table_runs_on_a_tiny_model(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    settings = {
        "model.source": checkpoint,
        "resources.gpus": 0,
        "data.name": "text",
        "data.path": corpus / "train.txt",
        "data.samples": 16,
        "evaluate.perplexity": f"[{{name: text, path: {corpus / 'valid.txt'}, label: valid}}]",
        "evaluate.windows": 4,
    }
    chosen = [f"--set={field}={value}" for field, value in settings.items()]
    assert main([str(FOLDER / "table4.yaml"), "--out", str(tmp_path / "out"), *chosen]) == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text("utf-8"))
    assert [row["status"] for row in table["rows"]] == ["succeeded"] * 8
    results = {row["name"].partition(", ")[2] or row["name"]: row["results"] for row in table["rows"]}
    assert results["w/o RFT"]["pruned"] == results["DReSS"]["pruned"], "the same cut model, computed once"
    digests = [results[name]["pruned"]["weights_digest"] for name in ("DReSS", "w FPR", "w/o R")]
    assert len(set(digests)) == 3


def test_methods_run_on_a_tiny_model_as_one_file(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    """A list of methods is one command and one table."""
    recipe = {
        "model": {"source": str(checkpoint)},
        "methods": [{"kind": "dense", "change": {"recover": {"kind": "none"}}}, {"kind": "magnitude", "ratio": 0.25}],
        "controls": False,
        "data": {"name": "text", "path": str(corpus / "train.txt"), "samples": 8, "sequence_length": 16},
        "recover": {"kind": "lora", "rank": 2},
        "evaluate": {
            "perplexity": [{"name": "text", "path": str(corpus / "valid.txt"), "label": "valid"}],
            "windows": 2,
        },
    }
    file = tmp_path / "methods.yaml"
    file.write_text(json.dumps(recipe), "utf-8")
    assert main([str(file), "--out", str(tmp_path / "out")]) == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text("utf-8"))
    assert [row["name"] for row in table["rows"]] == ["dense, recover none", "magnitude, ratio 0.25"]
    dense, cut = (row["results"] for row in table["rows"])
    assert dense["pruned"]["perplexity"] == dense["dense"]["perplexity"] == cut["dense"]["perplexity"]
    assert cut["recovered"]["parameters"] < dense["pruned"]["parameters"]
    assert (tmp_path / "out" / "table.csv").read_text("utf-8").count("magnitude") >= 2
