"""Studies: what a file expands into, which controls it gets, and how its faults are named."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.contracts.controls import DENSE, PLAIN, ROTATED
from workers.contracts.recipe import Recipe
from workers.contracts.study import LONGEST_SLUG, Row, Study, expand, is_study, shown, slug, with_change, with_settings
from workers.errors import RecipeError

BASE: dict[str, Any] = {
    "model": {"source": "owner/name"},
    "method": {"kind": "dress", "preset": "paper", "ratio": 0.25, "training": {"learning_rate": 3e-4}},
    "data": {"name": "wikitext2", "samples": 40},
}


def study(**parts: Any) -> Study:
    return Study.model_validate({"title": "A table", "about": "What varies.", "base": BASE, **parts})


def rows_of(**parts: Any) -> dict[str, Row]:
    return {row.name: row for row in expand(study(**parts))}


def test_rows_change_the_base_and_leave_it_alone() -> None:
    rows = rows_of(
        rows=[
            {"name": "as it is"},
            {"name": "no recovery", "change": {"recover": {"kind": "none"}, "method.ratio": 0.5}},
        ],
        controls=False,
    )
    assert list(rows) == ["as it is", "no recovery"]
    assert (rows["as it is"].recipe.method.ratio, rows["as it is"].recipe.recover.kind) == (0.25, "lora")
    assert (rows["no recovery"].recipe.method.ratio, rows["no recovery"].recipe.recover.kind) == (0.5, "none")
    assert BASE["method"]["ratio"] == 0.25


def test_a_grid_multiplies_and_names_by_value() -> None:
    rows = rows_of(grid={"model.source": ["a/small", "./there/large"], "method.strength": [1e-3, 1]}, controls=False)
    assert list(rows) == ["small, strength 0.001", "small, strength 1", "large, strength 0.001", "large, strength 1"]
    assert rows["large, strength 1"].recipe.method.strength == 1


def test_rows_and_grid_cross() -> None:
    rows = rows_of(
        grid={"method.ratio": [0.25, 0.5]},
        rows=[{"name": "DReSS"}, {"name": "w/o RFT", "change": {"recover": {"kind": "none"}}}],
        controls=False,
    )
    assert list(rows) == ["ratio 0.25, DReSS", "ratio 0.25, w/o RFT", "ratio 0.5, DReSS", "ratio 0.5, w/o RFT"]
    assert [row.slug for row in rows.values()][1] == "ratio-0-25-w-o-rft"


def test_controls_train_everything_on_all_the_data_after_the_cut() -> None:
    rows = rows_of(rows=[{"name": "DReSS"}])
    assert list(rows) == ["DReSS", DENSE, ROTATED, PLAIN]
    for name, kind, basis in ((DENSE, "dense", None), (ROTATED, "dress", "auto"), (PLAIN, "dress", "channels")):
        row, recipe = rows[name], rows[name].recipe
        assert row.is_control and recipe.method.kind == kind and not recipe.method.trains
        assert getattr(recipe.method, "basis", None) == basis
        assert (recipe.data.regularize_samples, recipe.data.recover_samples) == (0, 40)
        assert recipe.recover.kind == "full" and recipe.recover.training.learning_rate == 3e-4
        assert recipe.model_copy(update={"method": 0, "data": 0, "recover": 0}) == rows["DReSS"].recipe.model_copy(
            update={"method": 0, "data": 0, "recover": 0}
        ), "all else is as in the row that they are compared with"


def test_controls_come_once_for_each_model_data_and_ratio() -> None:
    shares = expand(study(grid={"data.split": ["4:1", "1:1"], "method.norm": ["l1", "l2"]}))
    assert [row.name for row in shares if row.is_control] == [DENSE, ROTATED, PLAIN]
    ratios = expand(study(grid={"method.ratio": [0.25, 0.5]}))
    assert [row.name for row in ratios if row.is_control] == [
        DENSE,
        f"{ROTATED} (ratio 0.25)",
        f"{ROTATED} (ratio 0.5)",
        f"{PLAIN} (ratio 0.25)",
        f"{PLAIN} (ratio 0.5)",
    ]
    models = expand(study(grid={"model.source": ["a/b", "a/c"], "data.samples": [8, 9]}))
    controls = [row for row in models if row.is_control]
    assert len(controls) == 3 * 4
    assert f"{PLAIN} (c, samples 9)" in {row.name for row in controls}


def test_a_control_that_distils_does_so_as_its_row_does() -> None:
    rows = rows_of(rows=[{"name": "ours", "change": {"method.preset": "recommended", "method.distillation": 0.25}}])
    assert [rows[name].recipe.recover.distillation for name in (DENSE, ROTATED, PLAIN)] == [0.0, 0.25, 0.25]


def test_a_row_that_is_a_control_is_not_run_twice() -> None:
    control = rows_of(rows=[{"name": "DReSS"}])[PLAIN].recipe.model_dump(mode="json")
    named = {field: control[field] for field in ("method", "data", "recover")}
    rows = rows_of(rows=[{"name": "DReSS"}, {"name": "ours", "change": named}])
    assert list(rows)[:4] == ["DReSS", "ours", DENSE, ROTATED]
    assert PLAIN not in rows


def test_no_controls_if_they_are_not_wanted() -> None:
    assert not any(row.is_control for row in expand(study(rows=[{"name": "a"}], controls=False)))


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"method.strengh": 1}, "method.strengh", "Extra inputs"),
        ({"methods.strength": 1}, "methods", "Extra inputs"),
        ({"method.ratio": 2.0}, "method.ratio", "less than"),
        ({"recover": {"kind": "lora", "rank": 0}}, "recover.rank", "greater than"),
        ({"model.source.path": "x"}, "model.source.path", "no fields of its own"),
        ({"data.split": "0:1"}, "recipe", "data.split leaves the regularize stage no sample"),
    ],
)
def test_faults_name_the_row_and_the_field(change: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        expand(study(rows=[{"name": "good"}, {"name": "bad", "change": change}]))
    assert refused.value.field == field
    assert "row 'bad'" in refused.value.detail and words in refused.value.detail


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "needs rows, a grid, or both"),
        ({"rows": [{"name": "a"}, {"name": "a", "change": {"seed": 1}}]}, "two are called 'a'"),
        ({"grid": {"seed": [1, 1]}}, "grid.seed: 1 stands there twice"),
        ({"grid": {"seed": [1]}, "rows": [{"name": "a", "change": {"seed": 2}}]}, "a row changes it too"),
        ({"grid": {"seed": list(range(30)), "data.samples": list(range(2, 32))}}, "900 rows; at most 500"),
        ({"grid": {"Seed": [1]}}, "String should match pattern"),
        ({"grid": {"seed": []}}, "at least 1 item"),
        ({"grid": {"seed": [1]}, "base": 7}, "valid dictionary"),
    ],
)
def test_faults_of_the_study_itself(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        study(**parts)


def test_rows_that_ask_for_the_same_are_refused() -> None:
    with pytest.raises(RecipeError, match="'a' and 'b' ask for the same"):
        expand(study(rows=[{"name": "a"}, {"name": "b", "change": {"method.ratio": 0.25}}]))
    with pytest.raises(RecipeError, match="ask for the same"):
        expand(study(grid={"method.strength": [1, 1.0]}))


def test_a_study_is_told_from_a_recipe() -> None:
    assert is_study({"base": {}}) and not is_study(BASE) and not is_study("base")


def test_settings_change_a_recipe_a_base_or_a_grid() -> None:
    assert with_settings(BASE, ["method.ratio=0.5", "resources.gpus=1"])["method"]["ratio"] == 0.5
    plain = {"base": BASE, "grid": {"model.source": ["a/b", "a/c"]}}
    there = with_settings(plain, ["model.source=./tiny", "data.samples=8"])
    assert there["grid"] == {"model.source": ["./tiny"]} and there["base"]["data"]["samples"] == 8
    assert plain["grid"] == {"model.source": ["a/b", "a/c"]} and BASE["data"]["samples"] == 40
    for wrong in ("ratio", "=1", "a b=1", "seed=[1"):
        with pytest.raises(RecipeError, match="--set"):
            with_settings(BASE, [wrong])
    with pytest.raises(RecipeError, match="row 'a' of the study changes it"):
        with_settings({"base": BASE, "rows": [{"name": "a", "change": {"seed": 1}}]}, ["seed=2"])


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("model.source", "/a/b/tiny/", "tiny"),
        ("model.source", "owner/7b", "source 7b"),
        ("data.split", "3:1", "split 3:1"),
        ("method.strength", 1e-5, "strength 1e-05"),
        ("evaluate.speed", True, "speed true"),
        ("method.round_to", None, "round_to null"),
        ("recover", {"kind": "none"}, "recover none"),
        ("recover", {"kind": "lora", "rank": 4}, 'recover {"kind": "lora", "rank": 4}'),
    ],
)
def test_values_in_names(field: str, value: Any, name: str) -> None:
    assert shown(field, value) == name


NAMES = st.text(min_size=1, max_size=90).filter(lambda text: text.strip())


@given(
    names=st.lists(NAMES, min_size=1, max_size=6, unique=True),
    seeds=st.lists(st.integers(100, 2**40), min_size=1, max_size=3, unique=True),
    controls=st.booleans(),
)
def test_names_are_unique_and_the_order_is_stable(names: list[str], seeds: list[int], controls: bool) -> None:
    rows = [{"name": name, "change": {"data.samples": 8 + place}} for place, name in enumerate(names)]
    made = study(rows=rows, grid={"seed": seeds}, controls=controls)
    expanded = expand(made)
    wanted = [(seed, 8 + place) for seed in seeds for place in range(len(names))]
    assert [(row.recipe.seed, row.recipe.data.samples) for row in expanded[: len(wanted)]] == wanted
    assert [row.is_control for row in expanded] == [place >= len(wanted) for place in range(len(expanded))]
    assert len(expanded) == len(wanted) * (4 if controls else 1)
    assert len({row.name for row in expanded}) == len({row.slug for row in expanded}) == len(expanded)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", row.slug) for row in expanded)
    assert all(len(row.slug) <= LONGEST_SLUG for row in expanded)
    assert expand(made) == expanded and all(isinstance(row.recipe, Recipe) for row in expanded)


@given(st.text(max_size=200))
def test_slugs_are_labels(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug(text)) and len(slug(text)) <= LONGEST_SLUG


@given(st.dictionaries(st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("xyz"), st.integers())))
def test_a_change_sets_its_field_and_nothing_else(plain: dict[str, Any]) -> None:
    if isinstance(plain.get("a", {}), dict):
        changed = with_change(plain, "a.x", 7)
        assert changed["a"]["x"] == 7
        changed["a"].pop("x")
        before = {**plain, "a": {name: value for name, value in plain.get("a", {}).items() if name != "x"}}
        assert changed == before


METHODS: dict[str, Any] = {
    "model": {"source": "./there/small"},
    "data": {"samples": 40, "split": "3:1"},
    "methods": [
        {"kind": "sleb", "ratio": 0.25},
        {"name": "paper l1", "kind": "dress", "preset": "paper", "norm": "l1", "ratio": 0.25},
        {"preset": "paper", "ratio": 0.25, "training": {"learning_rate": 1e-3}},
        {"kind": "dense", "change": {"recover": {"kind": "none"}}},
    ],
    "seed": 3,
}


def listed(**changes: Any) -> dict[str, Row]:
    return {row.name: row for row in expand(Study.model_validate({**METHODS, "controls": False, **changes}))}


def test_a_recipe_with_methods_is_a_study_of_them() -> None:
    assert is_study(METHODS)
    rows = listed()
    assert list(rows) == ["sleb, ratio 0.25", "paper l1", "dress paper, ratio 0.25", "dense, recover none"]
    assert [row.recipe.method.kind for row in rows.values()] == ["sleb", "dress", "dress", "dense"]
    assert {(row.recipe.model.source, row.recipe.seed) for row in rows.values()} == {("./there/small", 3)}
    assert rows["dress paper, ratio 0.25"].recipe.method.training.learning_rate == 1e-3
    assert rows["dense, recover none"].recipe.recover.kind == "none"
    made = Study.model_validate(METHODS)
    assert (made.title, made.slug) == ("Methods on small", "methods-on-small")
    assert Study.model_validate({**METHODS, "title": "Table 1", "about": "All."}).title == "Table 1"


def test_a_method_that_trains_nothing_first_gives_all_samples_to_recovery() -> None:
    def splits(**changes: Any) -> list[str]:
        return [row.recipe.data.split for row in listed(**changes).values()]

    assert splits() == ["0:1", "3:1", "3:1", "0:1"]
    at_once = {"name": "at once", "kind": "dress", "solver": "none", "ratio": 0.25}
    own = {"kind": "random", "ratio": 0.25, "change": {"data.split": "1:3"}}
    section = {"kind": "magnitude", "ratio": 0.25, "change": {"data": {"samples": 8}}}
    assert splits(methods=[at_once, own, section]) == ["0:1", "1:3", "3:1"], "unless its row says a split"
    assert splits(methods=[METHODS["methods"][0]], grid={"data.split": ["1:1", "2:1"]}) == ["1:1", "2:1"]
    base = {name: value for name, value in METHODS.items() if name not in ("methods", "seed")}
    rows = expand(study(base=base, rows=[{"name": "plain", "change": {"method": {"kind": "random", "ratio": 0.5}}}]))
    assert rows[0].recipe.data.split == "3:1", "a study's own rows say everything themselves"


def test_methods_cross_with_a_grid() -> None:
    methods = [{"kind": "sleb"}, {"kind": "dress", "preset": "paper"}]
    rows = listed(methods=methods, grid={"method.ratio": [0.25, 0.5], "seed": [1, 2]})
    assert list(rows)[:3] == ["ratio 0.25, seed 1, sleb", "ratio 0.25, seed 1, dress paper", "ratio 0.25, seed 2, sleb"]
    last = rows["ratio 0.5, seed 2, dress paper"].recipe
    assert (last.method.ratio, last.method.solver, last.seed, last.data.split) == (0.5, "penalty", 2, "3:1")
    assert rows["ratio 0.5, seed 2, sleb"].recipe.data.split == "0:1"


def test_rivals_share_the_controls_of_what_trains() -> None:
    names = [row.name for row in expand(Study.model_validate(METHODS)) if row.is_control]
    assert names and {name.partition(" (")[0] for name in names} == {DENSE, ROTATED, PLAIN}
    alone = Study.model_validate({**METHODS, "methods": METHODS["methods"][1:]})
    assert names == [row.name for row in expand(alone) if row.is_control], "SLEB trains nothing and adds none"
    rivals = expand(Study.model_validate({**METHODS, "methods": METHODS["methods"][:1]}))
    assert [row.name for row in rivals if row.is_control] == [DENSE, ROTATED, PLAIN], (
        "by themselves they have their own"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": []}, "a study needs rows, a grid, or both; or a list of methods"),
        ({"methods": [{"name": "a"}]}, "a method needs its settings"),
        ({"methods": [{"kind": "dense"}, {"kind": "dense"}]}, "methods: two are called 'dense'; give each a name"),
        ({"methods": [{"kind": "sleb", "change": {"method.ratio": 1}}]}, "write it as a setting of the method itself"),
        ({"method": {"kind": "dress"}}, "method and methods: write the one method into the list"),
        ({"rows": [{"name": "a"}]}, "rows and methods: only one of the two"),
        ({"methods": 3}, "valid list"),
    ],
)
def test_faults_of_a_list_of_methods(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        Study.model_validate({**METHODS, **changes})


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"methods": [{"kind": "sleb", "ratio": 7.0}]}, "method.ratio", "row 'sleb, ratio 7': Input should be less"),
        ({"methods": [{"kind": "slab", "ratio": 0.5}]}, "method", "row 'slab, ratio 0.5': Input tag 'slab'"),
        ({"methods": [{"kind": "dense"}], "grid": {"method.ratio": [0.5]}}, "method.ratio", "Extra inputs"),
        ({"sead": 1}, "sead", "row 'sleb, ratio 0.25': Extra inputs"),
    ],
)
def test_faults_of_a_method_name_its_row(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        listed(**changes)
    assert refused.value.field == field and words in refused.value.detail


def test_settings_change_what_all_methods_share() -> None:
    plain = with_settings(METHODS, ["model.source=./tiny", "resources.gpus=1"])
    rows = expand(Study.model_validate(plain))
    assert {(row.recipe.model.source, row.recipe.resources.gpus) for row in rows} == {("./tiny", 1)}
    assert with_settings(METHODS, [])["base"]["seed"] == 3 and METHODS["seed"] == 3
    for field in ("method.ratio=0.5", "method={kind: dense}"):
        with pytest.raises(RecipeError, match="lists its methods; edit the list"):
            with_settings(METHODS, [field])
    with pytest.raises(RecipeError, match="row 'a' of the study changes it"):
        with_settings(
            {"base": BASE, "rows": [{"name": "a", "change": {"recover": {"kind": "none"}}}]}, ["recover.rank=2"]
        )


def test_a_field_is_set_after_the_section_that_holds_it() -> None:
    row = {"name": "a", "change": {"recover.rank": 4, "recover": {"kind": "lora", "rank": 8}}}
    assert rows_of(rows=[row], controls=False)["a"].recipe.recover.rank == 4
