"""What of a table's rows is drawn."""

from __future__ import annotations

from pathlib import Path

from tests.workers.comparison.rows import dense, measured, results, row, score, speed
from workers.comparison.drawing import drawn_rows, write_figures
from workers.contracts.results import Results


def test_each_dense_model_stands_once_before_the_rows() -> None:
    other = row("there", recipe={"model": {"source": "owner/other"}})
    drawn = drawn_rows([row("a"), row("b"), other, row("failed", status="failed", results=Results())])
    assert [(each.name, each.model, each.is_dense) for each in drawn] == [
        ("dense", "owner/name", True),
        ("dense", "owner/other", True),
        ("a", "owner/name", False),
        ("b", "owner/name", False),
        ("there", "owner/other", False),
        ("failed", "owner/name", False),
    ]
    assert drawn[0].parameters == 2000 and drawn[-1].perplexity == {}


def test_a_row_is_drawn_with_what_its_final_model_measured() -> None:
    last = measured(1500, 12.0, nonzero_parameters=1400, tasks={"piqa": score(0.5)}, speed=speed(130))
    method = {"kind": "dress", "preset": "paper", "solver": "penalty", "norm": "l1", "strength": 0.01, "ratio": 0.25}
    told = drawn_rows([row("a", method, results=results(dense=dense(), recovered=last))])[1]
    assert (told.parameters, told.perplexity, told.tokens_per_second) == (1400, {"valid": 12.0}, 130)
    assert (told.accuracy["piqa"].value, told.accuracy["piqa"].standard_error) == (0.5, 0.02)
    assert (told.method, told.strength, told.ratio, told.samples) == ("dress paper l1", 0.01, 0.25, 40)
    plain = drawn_rows([row("a", {"kind": "dress", "solver": "anneal", "strength": 0.01, "ratio": 0.25})])[1]
    assert plain.strength is None, "a weight that is not used is no place on its axis"
    control = drawn_rows([row("control: cut first (ratio 0.25)", is_control=True)])[1]
    assert (control.method, control.is_control) == ("control: cut first", True)


def test_figures_are_files(tmp_path: Path) -> None:
    files = write_figures([row("a"), row("b", results=results(recovered=measured(1400, 13.0)))], tmp_path)
    assert {file.suffix for file in files} == {".svg", ".png"} and all(file.stat().st_size > 1000 for file in files)
    assert "perplexity_by_parameters_valid.svg" in {file.name for file in files}
    assert write_figures([row("nothing", results=Results())], tmp_path) == []
