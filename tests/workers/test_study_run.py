"""Studies in this process: shared stages, failing rows, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from workers.__main__ import main
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageResult
from workers.contracts.study import Study, expand
from workers.study_run import run_study, stand_in_keys


class Interrupted(BaseException):
    """Somebody pressed Ctrl-C."""


@pytest.fixture
def study(recipe: Recipe) -> dict[str, Any]:
    """Two rows and their controls, a few steps each."""
    base = recipe.model_dump(mode="json")
    base["data"] |= {"samples": 16, "sequence_length": None}
    return {
        "title": "A small table",
        "about": "With and without recovery.",
        "base": base,
        "rows": [{"name": "DReSS"}, {"name": "w/o RFT", "change": {"recover": {"kind": "none"}}}],
    }


def stage_results(out: Path) -> dict[str, StageResult]:
    """Every stage result that a study computed, by key."""
    files = (out / ".store" / "stages").glob("*.json")
    return {file.stem: StageResult.model_validate_json(file.read_bytes()) for file in files}


def dress_run(study: object, tmp_path: Path, *options: str) -> int:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return main([str(file), "--out", str(tmp_path / "out"), *options])


def test_a_study_becomes_a_table(study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dress_run(study, tmp_path) == 0
    out = tmp_path / "out"
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [row.name for row in expand(Study.model_validate(study))]
    assert len(rows) == 5 and all(row["status"] == "succeeded" for row in rows)
    told = capsys.readouterr()
    assert told.out.strip() == (out / "table.md").read_text().strip()
    for row in rows:
        assert row["name"] in told.out and f"{row['results']['pruned']['perplexity']['valid']:,.2f}" in told.out
        assert row["results"]["sequence_length"] == 64, "the tiny model's context"
    assert "training sequences of 64 tokens" in told.err
    dense, rotated = rows[2], rows[3]
    assert dense["results"]["pruned"]["weights_digest"] == dense["results"]["dense"]["weights_digest"]
    assert dense["results"]["recovered"]["weights_digest"] != dense["results"]["dense"]["weights_digest"]
    assert rotated["results"]["recovered"]["parameters"] < dense["results"]["recovered"]["parameters"]
    assert [file.name for file in out.rglob("model")] == []
    record = json.loads((out / "dress" / "records" / "preserved_ratios.json").read_text())
    assert record["parameters"] and record["steps"][0] == 0
    assert json.loads((out / "w-o-rft" / "result.json").read_text()) == rows[1]
    found = list(stage_results(out).values())
    of_dense = [result.measurements["dense"] for result in found if "dense" in result.measurements]
    assert sorted(bool(each.perplexity) for each in of_dense) == [False, True], "sizes and perplexity, each once"
    assert not any(result.files for result in found), "nobody needs models any more"
    true = [key for row in rows for key in row["keys"]]
    stand_ins = [key for row in rows for key in stand_in_keys(Recipe.model_validate(row["recipe"]))]
    assert [true.index(key) for key in true] == [stand_ins.index(key) for key in stand_ins], "equal where those are"
    assert rows[0]["keys"][: len(rows[1]["keys"])] == rows[1]["keys"], "the second row is the first without its end"
    assert told.err.count("found, not computed again") == 3 + len(rows[1]["keys"]), (
        "and of each control the dense model"
    )


def test_an_interrupted_study_goes_on_where_it_was(study: dict[str, Any], tmp_path: Path) -> None:
    wanted, out, lines = Study.model_validate({**study, "controls": False}), tmp_path / "out", []

    def interrupt(line: str) -> None:
        if line.startswith("== row 2"):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_study(wanted, expand(wanted), out, keep_models=False, tell=interrupt)
    before = stage_results(out)
    assert {"regularize", "prune"} <= {result.stage for result in before.values()}, "the second row needs them"
    assert "recover" not in {result.stage for result in before.values()}, "nobody needs it any more"
    assert len(json.loads((out / "table.json").read_text())["rows"]) == 1
    first = json.loads((out / "dress" / "result.json").read_text())
    table = run_study(wanted, expand(wanted), out, keep_models=False, tell=lines.append)
    told = [line for line in lines if line.startswith("[") or "found, not computed again" in line]
    assert told[0] == "    found, not computed again", "the whole first row"
    assert all(line == "    found, not computed again" for line in told[2::2]), "and every stage of the second"
    assert table.is_complete and table.rows[0].model_dump(mode="json", exclude_none=True) == first
    assert table.rows[1].seconds is not None and 0 < table.rows[1].seconds < first["seconds"]
    large = [file for file in (out / ".store" / "blobs").rglob("*") if file.is_file() and file.stat().st_size > 50_000]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in large), "figures stay, weights go"


def test_a_finished_row_is_run_again_if_its_text_is_another(study: dict[str, Any], tmp_path: Path) -> None:
    text = tmp_path / "train.txt"
    text.write_text(Path(study["base"]["data"]["path"]).read_text())
    study["base"]["data"]["path"] = str(text)
    wanted, out = Study.model_validate({**study, "controls": False, "rows": study["rows"][1:]}), tmp_path / "out"

    def digest() -> str | None:
        (row,) = run_study(wanted, expand(wanted), out, keep_models=False, tell=str).rows
        return row.results.pruned and row.results.pruned.weights_digest

    first = digest()
    assert digest() == first
    text.write_text(text.read_text().upper())
    assert digest() != first


def test_an_interrupted_stage_is_computed_once_more_and_no_other(study: dict[str, Any], tmp_path: Path) -> None:
    wanted, out = Study.model_validate({**study, "controls": False, "rows": study["rows"][:1]}), tmp_path / "out"

    def interrupt(line: str) -> None:
        if line.startswith("[") and "recover" in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_study(wanted, expand(wanted), out, keep_models=True, tell=interrupt)
    before = stage_results(out)
    assert not {result.stage for result in before.values()} & {"recover"}
    assert run_study(wanted, expand(wanted), out, keep_models=True, tell=str).is_complete
    after = stage_results(out)
    assert {key: after[key] for key in before} == before
    new = sorted(result.stage for key, result in after.items() if key not in before)
    assert new == ["evaluate", "evaluate", "recover"], "of the evaluation the sizes and the text"


def test_a_failing_row_is_a_line_of_the_table(
    study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"name": "too much", "change": {"data.samples": 100_000}}, study["rows"][1]]
    assert dress_run({**study, "rows": rows, "controls": False}, tmp_path, "--keep-models", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in told["rows"]] == ["failed", "succeeded"]
    assert "data.samples: asked for 100000" in told["rows"][0]["error"]
    shown = (tmp_path / "out" / "table.md").read_text()
    assert "too much (failed)" in shown and "- **too much**: invalid_recipe: data.samples" in shown
    assert not (tmp_path / "out" / "too-much" / "model").exists()
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "w-o-rft" / "model")
    assert kept.num_parameters() == told["rows"][1]["results"]["pruned"]["parameters"]


def test_settings_are_applied(study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = study["base"]["model"].pop("source")
    missing = {**study, "rows": study["rows"][1:], "controls": False}
    assert dress_run(missing, tmp_path) == 2
    assert "model.source: row 'w/o RFT': Field required" in capsys.readouterr().err
    assert dress_run(missing, tmp_path, f"--set=model.source={source}", "--set=data.samples=8") == 0
    (row,) = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert (row["recipe"]["model"]["source"], row["recipe"]["data"]["samples"]) == (source, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rows": []}, "a study needs rows, a grid, or both"),
        ({"rows": [{"name": "bad", "change": {"method.ratio": 2.0}}]}, "method.ratio: row 'bad'"),
        ({"titel": "x"}, "titel: Extra inputs"),
    ],
)
def test_a_bad_study_is_refused_before_anything_runs(
    change: dict[str, Any], words: str, study: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dress_run({**study, **change}, tmp_path) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
