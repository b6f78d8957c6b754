"""The table of a study: what it says of whole, failed and unmeasured rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workers.contracts.results import Measurement, PerplexityProtocol, Results, Speed
from workers.study_table import StudyTable, TableRow

PROTOCOL = PerplexityProtocol(
    sequence_length=64,
    windows=12,
    tokens=800,
    batch_size=8,
    dtype="float16",
    arithmetic="float32",
    text_sha256="0" * 64,
)


def speed(tokens_per_second: float) -> Speed:
    return Speed(
        generation_tokens_per_second=tokens_per_second,
        slowest=1.0,
        fastest=2.0,
        batch_size=64,
        new_tokens=128,
        rounds=3,
        threads=1,
        device="cpu",
    )


DENSE = Measurement(
    parameters=2000, perplexity={"valid": 10.0}, perplexity_protocol={"valid": PROTOCOL}, speed=speed(1000)
)
PRUNED = Measurement(parameters=1500, perplexity={"valid": 30.0}, speed=speed(1200))
RECOVERED = Measurement(parameters=1500, perplexity={"valid": 12.0}, speed=speed(1250))


def row(**changes: Any) -> TableRow:
    plain = {
        "name": "DReSS",
        "is_control": False,
        "status": "succeeded",
        "recipe": {"model": {"source": "owner/name"}},
        **changes,
    }
    return TableRow.model_validate(plain)


def cells(table: StudyTable) -> list[list[str]]:
    """The rows of the Markdown table, without its rule."""
    lines = [line for line in table.markdown().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in [lines[0], *lines[2:]]]


def table(*rows: TableRow) -> StudyTable:
    return StudyTable(title="Table 9", about="What varies.", rows=list(rows))


def test_a_row_says_sizes_perplexities_and_cost() -> None:
    whole = row(seconds=1234.4, results=Results(dense=DENSE, pruned=PRUNED, recovered=RECOVERED))
    head, line = cells(table(whole))
    assert head[:7] == ["row", "parameters", "% of dense", "valid: dense", "pruned", "recovered", "÷ dense"]
    assert line == ["DReSS", "1,500", "75.0%", "10.00", "30.00", "12.00", "1.200", "1,250", "1.25", "1,234"]
    told = table(whole).markdown()
    assert told.startswith("# Table 9\n\nWhat varies.\n\n| row")
    assert "- Model: owner/name, 2,000 parameters." in told
    assert "valid: 12 windows of 64 tokens, weights in float16, arithmetic in float32, 8 windows at once." in told


def test_without_recovery_the_pruned_model_is_the_last_one() -> None:
    bare = row(results=Results(dense=DENSE, pruned=PRUNED), seconds=2.0)
    assert cells(table(bare))[1][4:7] == ["30.00", "", "3.000"]
    assert bare.perplexity_ratio("valid") == 3.0 and bare.parameters_fraction == 0.75


def test_speed_has_columns_only_where_it_was_measured() -> None:
    slow = Measurement(parameters=5, perplexity={"valid": 3.0})
    assert "tokens/s" not in table(row(results=Results(dense=slow, pruned=slow))).markdown()


def test_a_failed_row_keeps_what_was_measured_and_says_why() -> None:
    failed = row(name="a|b", status="failed", error="diverged: the loss is no number", results=Results(dense=DENSE))
    told = table(failed, row(results=Results(dense=DENSE, pruned=PRUNED))).markdown()
    assert "a\\|b (failed)" in told and "- **a|b**: diverged: the loss is no number" in told
    assert not table(failed).is_complete


def test_no_figure_is_no_zero() -> None:
    broken = Measurement(parameters=5, perplexity={"valid": None})
    line = cells(table(row(results=Results(dense=broken, pruned=broken)), row(results=Results())))[1]
    assert line[3:7] == ["", "", "", ""]


def test_both_forms_are_written(tmp_path: Path) -> None:
    made = table(row(results=Results(dense=DENSE, pruned=PRUNED), seconds=1.0))
    made.write(tmp_path)
    assert (tmp_path / "table.md").read_text() == made.markdown()
    assert StudyTable.model_validate(json.loads((tmp_path / "table.json").read_text())) == made


@given(st.lists(st.tuples(st.text(max_size=30), st.none() | st.floats(1, 1e6)), min_size=1, max_size=5))
def test_every_line_is_as_wide_as_the_others(given_rows: list[tuple[str, float | None]]) -> None:
    rows = [
        row(name=name or "x", results=Results(dense=Measurement(parameters=7, perplexity={"valid": figure})))
        for name, figure in given_rows
    ]
    lines = [line for line in table(*rows).markdown().split("\n") if line.startswith("|")]
    assert len(lines) == len(rows) + 2 and len({len(line) for line in lines}) == 1
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
