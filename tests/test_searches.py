"""The files of `deploy/searches`: all of the paper's values, and a small model by changing one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_recipes import values as studied
from workers.contracts.recipe import parse_yaml
from workers.contracts.search import Asha, Search, checked
from workers.contracts.study import with_settings
from workers.search_run import run_search

FOLDER = Path(__file__).parents[1] / "deploy" / "searches"
FILES = sorted(FOLDER.glob("*.yaml"))
SWEEPS = {
    "table3": "data.samples",
    "table5": "data.split",
    "table6": "method.strength",
    "figure4": "method.ratio",
}
"""The one field that each of the paper's sweeps varies."""

SMALL = "  <<: {model: {source: ./my-model}, resources: {gpus: 0, cpus: 2}}"

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text("utf-8")


def search(name: str) -> Search:
    return Search.model_validate(parse_yaml(read(name)))


def test_every_search_is_listed() -> None:
    assert {file.stem for file in FILES} == {*SWEEPS, "frontier", "many_ratios"}
    listed = (FOLDER / "README.md").read_text("utf-8")
    for file in FILES:
        row = next(line for line in listed.splitlines() if line.startswith(f"| [{file.name}]({file.name}) |"))
        assert f"| {search(file.stem).trials_at_most}" in row, "as many trials as it says"


@each_file
def test_every_search_can_be_queued(file: Path) -> None:
    recipe = checked(search(file.stem))
    assert recipe.model.source == "meta-llama/Llama-2-7b-hf"
    assert (recipe.method.kind, recipe.method.preset, recipe.resources.gpus) == ("dress", "paper", 1)
    assert recipe.data.sequence_length is None, "so that a small model needs no other change"


@each_file
def test_comments_say_what_to_change(file: Path) -> None:
    comment = [line for line in file.read_text("utf-8").splitlines()[:4] if line.startswith("#")]
    assert 2 <= len(comment) <= 3 and "For a small model change the line" in " ".join(line[2:] for line in comment)


@each_file
def test_one_line_makes_it_a_search_on_a_small_model(file: Path) -> None:
    changed, count = re.subn(r"^  <<: .*$", SMALL, file.read_text("utf-8"), flags=re.MULTILINE)
    assert count == 1
    asked = Search.model_validate(parse_yaml(changed))
    recipes = [checked(asked), *(asked.recipe_at(point) for _, point in asked.probes())]
    assert {recipe.model.source for recipe in recipes} == {"./my-model"}
    assert {(recipe.resources.gpus, recipe.resources.cpus) for recipe in recipes} == {(0, 2)}


@each_file
def test_settings_of_the_command_line_reach_the_base(file: Path) -> None:
    plain = with_settings(parse_yaml(file.read_text("utf-8")), ["model.source=./my-model", "resources.gpus=0"])
    recipe = checked(Search.model_validate(plain))
    assert (recipe.model.source, recipe.resources.gpus, recipe.resources.cpus) == ("./my-model", 0, 8)


@pytest.mark.parametrize(("name", "field"), SWEEPS.items())
def test_a_sweep_has_the_values_of_its_study(name: str, field: str) -> None:
    """`deploy/recipes` has the paper's values; here they are a grid."""
    asked = search(name)
    assert asked.algorithm == "grid" and asked.scheduler is None, "every value is measured to its end"
    assert list(asked.space) == [field] and asked.space[field].choice == studied(name, field)
    assert asked.objective[0].metric == "recovered.perplexity.wikitext2"


@pytest.mark.parametrize(("name", "field"), SWEEPS.items())
def test_a_trial_is_the_row_of_its_study(name: str, field: str) -> None:
    """The same recipes, so that stages computed by one are found by the other."""
    asked = search(name)
    for value in asked.space[field].probes:
        recipe: Any = asked.recipe_at({field: value})
        study_recipe = parse_yaml((FOLDER.parent / "recipes" / f"{name}.yaml").read_text("utf-8"))["base"]
        assert recipe == asked.model_copy(update={"base": study_recipe}).recipe_at({field: value})


def test_table_6_varies_the_weight_alone_as_the_paper_does() -> None:
    assert search("table6").space["method.strength"].choice == [1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1]
    assert checked(search("table6")).method.norm == "l2"  # type: ignore[union-attr]
    ranged = read("table6").replace("{choice: [1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1]}", "loguniform(1e-5, 1e-1)")
    ranged = ranged.replace("algorithm: grid", "algorithm: tpe\ntrials: 24").replace("  # method.norm", "  method.norm")
    asked = Search.model_validate(parse_yaml(ranged))
    checked(asked)
    assert asked.space["method.strength"].loguniform == (1e-5, 1e-1), "as its comments say"
    assert asked.space["method.norm"].choice == ["l2", "l1"] and asked.trials_at_most == 24


def test_parameters_are_sought_where_the_ratio_varies() -> None:
    assert [each.metric for each in search("figure4").objectives] == ["recovered.perplexity.wikitext2", "parameters"]
    assert search("figure4").keep == "frontier"


def test_one_regularize_run_serves_every_ratio_of_a_weight() -> None:
    asked = search("many_ratios")
    methods = [asked.recipe_at(asked.grid_point(place) or {}).method for place in range(asked.grid_size)]
    assert len({json.dumps(method.for_regularize()) for method in methods}) == 6 and len(methods) == 24
    assert asked.keep == "frontier" and len(asked.objectives) == 2


def test_the_frontier_is_of_quality_size_and_latency() -> None:
    asked = search("frontier")
    assert [each.metric for each in asked.objectives] == [
        "recovered.perplexity.wikitext2",
        "latency.prompt",
        "parameters",
    ]
    assert asked.algorithm == "tpe" and isinstance(asked.scheduler, Asha) and asked.keep == "frontier"
    assert {"method.ratio", "method.strength", "method.norm", "data.split"} == set(asked.space)
    assert asked.recipe_at(asked.first[0]).method.ratio == 0.25, "the paper's own choice comes first"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table6", "frontier"])
def test_a_search_runs_on_a_tiny_model(name: str, checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    """Two trials of the file as it is, but for model, texts and their amount."""
    texts = [{"name": "text", "path": str(corpus / "valid.txt"), "label": "wikitext2"}]
    settings = {
        "model.source": checkpoint,
        "resources.gpus": 0,
        "data.name": "text",
        "data.path": corpus / "train.txt",
        "data.samples": 48,
        "data.sequence_length": 32,
        "evaluate.perplexity": json.dumps(texts),
        "trials": 2,
    }
    plain = with_settings(parse_yaml(read(name)), [f"{field}={value}" for field, value in settings.items()])
    table, failure = run_search(Search.model_validate(plain), tmp_path, tell=lambda _line: None)
    assert failure is None and [row.status for row in table.rows] == ["succeeded", "succeeded"]
    assert all(value is not None and value > 0 for row in table.rows for value in row.values.values())
    assert table.work.avoided_by_stage["evaluate dense"] > 0
    assert list((tmp_path / "figures").glob("*.svg")) and (tmp_path / "table.md").read_text("utf-8")
