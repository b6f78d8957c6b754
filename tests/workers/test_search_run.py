"""`dress run` of a search: real trials on a tiny model, killed and gone on with, and the table that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from workers import search_run
from workers.__main__ import main
from workers.contracts.recipe import Recipe
from workers.contracts.search import Search
from workers.contracts.study import with_settings
from workers.local_run import Tell
from workers.search_run import JOURNAL, run_search


@pytest.fixture
def plain(recipe: Recipe) -> dict[str, Any]:
    """Two learning rates, the second of them idle, judged at a third of the training."""
    base = recipe.model_dump(mode="json")
    base["method"] = {"kind": "dress", "preset": "paper", "ratio": 0.25, "training": {"batch_size": 4}}
    return {
        "title": "Two rates",
        "base": base,
        "space": {"method.training.learning_rate": {"choice": [0.01, 1e-8]}},
        "objective": "perplexity.valid min",
        "algorithm": "grid",
        "scheduler": {"kind": "asha", "reduction": 2, "first_fraction": 0.3},
        "seed": 1,  # which draws the two in this order
    }


class Killed(Exception):
    """In place of a signal."""


def killer(at: str) -> Tell:
    """Ends the run when this is told."""

    def tell(line: str) -> None:
        if at in line:
            raise Killed

    return tell


def test_a_search_goes_on_where_it_was_killed(plain: dict[str, Any], tmp_path: Path) -> None:
    search = Search.model_validate(plain)
    lines: list[str] = []
    undisturbed, failure = run_search(search, tmp_path / "undisturbed", tell=lines.append)
    assert failure is None and undisturbed.best == 1
    assert [row.status for row in undisturbed.rows] == ["succeeded", "stopped"]
    assert any("rung 0" in line for line in lines)

    with pytest.raises(Killed):
        run_search(search, tmp_path / "killed", tell=killer("recover"))
    with pytest.raises(Killed):
        run_search(search, tmp_path / "killed", tell=killer("== trial 2"))
    with (tmp_path / "killed" / JOURNAL).open("a") as journal:
        journal.write('{"type": "trial_fin')  # the kill came while this was written
    again: list[str] = []
    table, _ = run_search(search, tmp_path / "killed", tell=again.append)
    assert not any("== trial 1" in line or "regularize" in line and "trial 1" in line for line in again)
    for one, other in zip(undisturbed.rows, table.rows, strict=True):
        assert (one.point, one.status, one.values) == (other.point, other.status, other.values)
        assert [each.value for each in one.reports] == [each.value for each in other.reports]

    out = tmp_path / "killed"
    assert json.loads((out / "table.json").read_text())["rows"]
    assert (out / "trial-1" / "model" / "config.json").is_file() and not (out / "trial-2").exists()
    assert list((out / "figures").glob("*.svg"))


def test_the_command_runs_a_search_and_changes_its_fields(
    plain: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(plain | {"keep": "none"}))
    out = tmp_path / "out"
    settings = [
        "--set",
        "method.training.learning_rate=0.001",
        "--set",
        "scheduler=none",
        "--set",
        "recover={kind: none}",
    ]
    settings += ["--set", "method.training.epochs=1"]
    assert main([str(file), "--out", str(out), "--json", *settings]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [trial["point"] for trial in told["rows"]] == [{"method.training.learning_rate": 0.001}]
    assert not list(out.glob("trial-*"))
    file.write_text(yaml.safe_dump(plain | {"objective": "perplexity.absent min"}))
    assert main([str(file), "--out", str(out)]) == 2
    assert "objective.0" in capsys.readouterr().err
    other = {**plain, "space": {"seed": {"choice": [1]}}}
    file.write_text(yaml.safe_dump(other))
    assert main([str(file), "--out", str(out)]) == 2
    assert "another search" in capsys.readouterr().err


def test_settings_reach_base_space_and_the_search_itself() -> None:
    plain = {"base": {"method": {"ratio": 0.2}}, "space": {"method.strength": "uniform(1, 2)"}, "trials": 3}
    told = with_settings(plain, ["method.strength=1.5", "trials=7", "method.ratio=0.3", "budget.wall_hours=1"])
    assert told["space"] == {"method.strength": {"choice": [1.5]}}
    assert (told["trials"], told["base"], told["budget"]) == (7, {"method": {"ratio": 0.3}}, {"wall_hours": 1})
    assert search_run.JOURNAL.startswith(".")
