"""A search's table says what its record says, in every form."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.workers.searching.trials import DENSE_PARAMETERS, DENSE_PERPLEXITY, ended, record, results, search, succeeded
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord, TrialRecord, TrialReported
from workers.searching.columns import field_titles
from workers.searching.row import shown_setting
from workers.searching.table import SearchTable, TrialRow, row_of_wire, rows_of

METRIC = "recovered.perplexity.wikitext2"
POINT = {"method.strength": 1e-3, "method.ratio": 0.3}


def table(*trials: TrialRecord, asked: Search | None = None) -> SearchTable:
    asked = asked or search()
    return SearchTable(asked.title, asked, rows_of(asked, SearchRecord(trials=list(trials))))


def whole() -> SearchTable:
    return SearchTable("λ at three ratios", search(), rows_of(search(), record()))


def cells(made: SearchTable) -> list[dict[str, str]]:
    head, *lines = made.lines()
    return [dict(zip(head, line, strict=True)) for line in lines]


def read_csv(made: SearchTable) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(made.csv())))


def test_a_row_tells_what_became_of_its_trial() -> None:
    rows = {row.trial: row for row in whole().rows}
    done, failed, stopped, diverged, running = rows[10], rows[5], rows[7], rows[22], rows[23]
    assert (done.status, done.feasible, done.values[METRIC]) == ("succeeded", True, pytest.approx(6.534))
    assert done.parameters == 4_633_516_738 and done.parameters_fraction == pytest.approx(0.6876, abs=1e-4)
    assert done.dense == {METRIC: DENSE_PERPLEXITY, "parameters": DENSE_PARAMETERS}
    assert done.excesses == {"parameters <= 0.75 dense": pytest.approx(-0.0624, abs=1e-4)}
    assert (done.seconds, done.avoided_seconds, done.ended_as) == (600.0, 90.0, 10)
    assert (failed.status, failed.feasible, failed.values) == ("failed", None, {})
    assert [(each.rung, each.fraction, each.decision) for each in stopped.reports] == [
        (0, pytest.approx(1 / 9), "go_on"),
        (1, pytest.approx(1 / 3), "stop"),
    ]
    assert diverged.values[METRIC] is None and diverged.feasible is False
    assert (running.status, running.seconds, running.ended_as) == ("running", None, None)


def test_what_is_no_finite_number_is_none() -> None:
    reported = TrialReported(trial=1, rung=0, value=float("nan"), decision="stop")
    beyond = TrialReported(trial=1, rung=9, value=2.0, decision="go_on")
    (row,) = table(ended(1, "stopped", POINT).model_copy(update={"reports": [reported, beyond]})).rows
    assert [(each.fraction, each.value) for each in row.reports] == [(pytest.approx(1 / 9), None), (None, 2.0)]
    row = TrialRow(trial=1, status="succeeded", point={}, values={METRIC: float("inf"), "parameters": float("nan")})
    assert row.values == {METRIC: None, "parameters": None}


def test_rows_stand_by_the_first_objective_and_the_others_below() -> None:
    lines = cells(whole())
    assert [line["trial"] for line in lines[:4]] == ["3", "10 (best)", "6", "1"]
    assert [line["status"] for line in lines[-7:]] == [
        "stopped at 33%",
        "stopped at 11%",
        "stopped at 33%",
        "stopped at 11%",
        "running",
        "running",
        "failed",
    ]
    assert lines[1] == {
        "trial": "10 (best)",
        "status": "succeeded",
        "strength": "0.001",
        "ratio": "0.3",
        f"{METRIC} ↓": "6.53",
        "parameters ↓": "4,633,516,738",
        "constraints kept": "yes",
        "% of dense": "68.8%",
        "seconds": "600",
        "avoided, s": "90.0",
    }
    assert (lines[0]["trial"], lines[0]["constraints kept"]) == ("3", "no"), "better, but not allowed"
    assert [line["trial"] for line in lines if "frontier" in line["trial"]] == ["17 (frontier)"]
    diverged = next(line for line in lines if line["trial"] == "22")
    assert (diverged[f"{METRIC} ↓"], diverged["constraints kept"]) == ("not finite", "no")
    assert lines[-1][f"{METRIC} ↓"] == "" and lines[-1]["constraints kept"] == ""


def test_most_of_a_metric_may_be_better() -> None:
    asked = search(objective="bytes max", constraints=[], space={"method.strength": "uniform(0, 1)"})
    made = table(
        *(succeeded(n, {"method.strength": 0.5}, 9.0, values=[float(n)], excesses=[]) for n in (1, 3, 2)), asked=asked
    )
    assert [row.trial for row in made.ordered] == [3, 2, 1] and made.best == 3
    assert made.lines()[0][3] == "bytes ↑"
    assert "constraints kept" not in made.lines()[0], "there are none"


def test_the_last_lines_tell_the_work() -> None:
    made = whole()
    assert made.counts == {"succeeded": 17, "stopped": 4, "running": 2, "failed": 1}
    assert made.work.spent_seconds == 17 * 600 + 5 * 80 and made.work.avoided_seconds == 17 * 90
    assert made.work.avoided_fraction == pytest.approx(1530 / (10600 + 1530))
    assert made.remarks() == [
        f"Sought: {METRIC} min and parameters min.",
        "Constraints: parameters <= 0.75 dense.",
        "Best: trial 10, strength 0.001, ratio 0.3.",
        "Frontier, which no trial beats in every objective: trials 10, 17.",
        "24 trials: 17 succeeded, 4 stopped, 2 running, 1 failed.",
        "Work: 10,600 s in trials, 1,530 s avoided by stages that were found and not computed (12.6% of both): "
        "regularize 1,190 s, evaluate dense 340 s.",
    ]
    assert made.faults() == ["**trial 5**: diverged: the loss is gone lower method.strength | rate"]


def test_markdown_has_it_all_and_escapes_what_would_break_it() -> None:
    odd = {"method.strength": 1e-3, "method.ratio": 0.3, "data.path": "texts/a|b\nc"}
    asked = search(
        title="A search\nof two lines",
        space={**{field: {"choice": [value]} for field, value in POINT.items()}, "data.path": {"choice": ["x"]}},
    )
    told = table(succeeded(1, odd, 7.0), asked=asked).markdown()
    assert told.startswith("# A search of two lines\n\n| trial")
    assert "a\\|b c" in told, "neither a bar nor a line's end breaks the row"
    lines = [line for line in told.splitlines() if line.startswith("|")]
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert told.endswith("(13.0% of both): regularize 70.0 s, evaluate dense 20.0 s.\n")


def test_csv_has_full_names_and_every_digit() -> None:
    lines = read_csv(whole())
    assert [line["trial"] for line in lines[:2]] == ["3", "10"]
    best = lines[1]
    assert (best["standing"], best["method.strength"], best["method.ratio"]) == ("best", "0.001", "0.3")
    assert float(best[METRIC]) == whole().ordered[1].values[METRIC]
    assert best["parameters"] == "4633516738", "a whole number, though values are floats"
    assert float(best["excess: parameters <= 0.75 dense"]) < 0 and best["feasible"] == "yes"
    failed = lines[-1]
    assert (failed["status"], failed[METRIC], failed["feasible"], failed["seconds"]) == ("failed", "", "", "80.0")
    assert failed["message"].startswith("diverged: the loss is gone\n")
    harmless = table(ended(1, "failed", POINT, message="=HYPERLINK(1)"))
    assert read_csv(harmless)[0]["message"] == "'=HYPERLINK(1)"


def test_json_has_the_search_its_finds_and_the_rows() -> None:
    plain = json.loads(whole().json())
    assert (plain["object"], plain["title"], plain["best"], plain["frontier"]) == (
        "search_table",
        "λ at three ratios",
        10,
        [10, 17],
    )
    assert Search.model_validate(plain["search"]) == search()
    assert [each["metric"] for each in plain["objectives"]] == [METRIC, "parameters"]
    assert plain["work"]["avoided_fraction"] == pytest.approx(1530 / 12130)
    assert [row["standing"] for row in plain["rows"][:2]] == [None, "best"]
    kept = {name: value for name, value in plain["rows"][1].items() if name != "standing"}
    assert TrialRow.model_validate(kept) == next(row for row in whole().rows if row.trial == 10)


def test_all_forms_are_written(tmp_path: Path) -> None:
    made = whole()
    made.write(tmp_path)
    assert (tmp_path / "table.md").read_text("utf-8") == made.markdown() == made.told("markdown")
    assert (tmp_path / "table.csv").read_bytes().decode() == made.csv() == made.told("csv")
    assert (tmp_path / "table.json").read_text("utf-8") == made.json() == made.told("json")


def test_a_search_without_trials_says_so() -> None:
    made = table(asked=search(title=""))
    assert (made.best, made.frontier, made.lines()[1:], made.faults()) == (None, [], [], [])
    assert made.markdown().startswith("# Search\n\n| trial | status | strength |")
    assert made.remarks()[2:] == [
        "Best: none.",
        "0 trials.",
        "Work: 0.0 s in trials, 0.0 s avoided by stages that were found and not computed.",
    ]
    assert made.work.avoided_fraction is None and len(read_csv(made)) == 0
    assert json.loads(made.json())["rows"] == []


def test_one_trial_and_all_failed() -> None:
    alone = table(succeeded(1, POINT, 7.0))
    assert cells(alone)[0]["trial"] == "1 (best)"
    assert "1 trial: 1 succeeded." in alone.remarks()
    assert "Frontier, which no trial beats in every objective: trial 1." in alone.remarks()
    failed = table(*(ended(n, "failed", POINT, message=None if n == 2 else f"fault {n}") for n in (1, 2)))
    assert failed.best is None and failed.remarks()[2] == "Best: none."
    assert failed.faults() == ["**trial 1**: fault 1", "**trial 2**: it failed without a word"]
    barred = table(succeeded(1, POINT, 7.0, parameters=6_000_000_000))
    assert barred.remarks()[2] == "Best: none; no trial that succeeded was measured with every constraint kept."


def test_a_field_that_a_trial_leaves_out_stands_as_the_base_has_it() -> None:
    made = table(succeeded(1, {"method.strength": 0.01}, 7.0))
    assert cells(made)[0]["ratio"] == "0.25" and read_csv(made)[0]["method.ratio"] == "0.25"
    asked = search(space={"method.norm": {"choice": ["l1", "l2"]}, "method.strength": "uniform(0, 1)"})
    missing = table(succeeded(1, {"method.strength": 0.5}, 7.0, values=[7.0]), asked=asked)
    assert cells(missing)[0]["norm"] == "" and read_csv(missing)[0]["method.norm"] == ""


def test_fields_have_the_shortest_names_that_tell_them_apart() -> None:
    fields = ["method.training.learning_rate", "recover.training.learning_rate", "method.ratio", "seed"]
    assert list(field_titles(fields).values()) == [
        "method.training.learning_rate",
        "recover.training.learning_rate",
        "ratio",
        "seed",
    ]
    assert field_titles(["ratio", "method.ratio"])["method.ratio"] == "method.ratio"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.001, "0.001"),
        (1.23456e-5, "1.23e-5"),
        (0.0123456, "0.01235"),
        (12345.0, "12,345"),
        (30, "30"),
        (None, ""),
        (True, "true"),
        ("./models/small", "small"),
        ("3:1", "3:1"),
        ({"kind": "none"}, "none"),
        ({"kind": "sleb", "ratio": 0.25}, "sleb, ratio 0.25"),
        ([0.1, 0.2], "[0.1, 0.2]"),
        ({}, "{}"),
    ],
)
def test_settings_are_shown_as_people_write_them(value: Any, told: str) -> None:
    assert shown_setting("some.field", value) == told


def test_sections_and_lists_survive_csv() -> None:
    space = {"recover": {"choice": [{"kind": "none"}, {"kind": "full"}]}}
    asked = search(space=space, objective="perplexity.wikitext2 min")
    made = table(succeeded(1, {"recover": {"kind": "full"}}, 7.0, values=[7.0]), asked=asked)
    assert json.loads(read_csv(made)[0]["recover"]) == {"kind": "full"}
    assert cells(made)[0]["recover"] == "full"


def wire(**changes: Any) -> dict[str, Any]:
    plain = {
        "object": "trial",
        "search_id": "search_1",
        "trial": 10,
        "status": "succeeded",
        "point": POINT,
        "values": {METRIC: 6.534, "parameters": 5_000_000_000},
        "feasible": True,
        "reports": [{"rung": 0, "fraction": 0.25, "value": 3.0, "decision": "go_on", "newer": 1}],
        "progress": None,
        "results": results(6.534, 5_000_000_000).model_dump(mode="json"),
        "seconds": 600.0,
        "gpu_seconds": 600.0,
        "avoided_seconds": 90.0,
        "avoided_by_stage": {"evaluate dense": 20.0, "regularize": 70.0},
        "error": None,
        "reason": None,
        "created_at": "2026-11-23T21:00:00Z",
        "ended_at": "2026-11-23T21:10:30Z",
        **changes,
    }
    return json.loads(json.dumps(plain))


def test_a_trial_object_of_the_wire_makes_the_same_row() -> None:
    row = row_of_wire(search(), wire(), "2026-11-23T20:59:00Z")
    known = rows_of(search(), SearchRecord(trials=[succeeded(10, POINT, 6.534)]))[0]
    assert (row.created_seconds, row.ended_seconds) == (60.0, 690.0)
    assert row.reports[0].fraction == 0.25
    times = {"created_seconds": None, "ended_seconds": None, "reports": [], "ended_as": 10}
    assert row.model_copy(update=times) == known
    assert row_of_wire(search(), wire(), datetime(2026, 11, 23, 21, tzinfo=UTC)).ended_seconds == 630.0
    assert row_of_wire(search(), wire()).ended_seconds is None


def test_the_wire_may_know_little_or_more_than_this_version() -> None:
    early = row_of_wire(
        search(),
        wire(status="waiting", values=None, feasible=None, results=None, seconds=None, gpu_seconds=None,
             avoided_seconds=None, reports=[], ended_at=None),
        "2026-11-23T21:00:00Z",
    )  # fmt: skip
    assert (early.status, early.values, early.parameters, early.ended_seconds) == ("waiting", {}, None, None)
    failed = row_of_wire(search(), wire(status="failed", values={}, error={"code": "diverged", "message": "gone"}))
    assert failed.message == "gone"
    assert row_of_wire(search(), wire(status="stopped", values={}, reason="budget")).message == "budget"
    newer = row_of_wire(search(), wire(results={"dense": {"a_new_figure": 1}}))
    assert newer.parameters is None and newer.values[METRIC] == 6.534, "the values stand for themselves"
    with pytest.raises(ValidationError):
        row_of_wire(search(), wire(status="on its way"))


@given(st.lists(st.tuples(st.sampled_from([None, 5.0, 7.5, 1e9]), st.booleans()), max_size=8))
def test_the_best_is_the_first_of_those_that_keep_the_constraints(trials: list[tuple[float | None, bool]]) -> None:
    made = table(
        *(
            succeeded(number, POINT, value, parameters=4_000_000_000 if kept else 6_000_000_000)
            for number, (value, kept) in enumerate(trials, start=1)
        )
    )
    feasible = [row.trial for row in made.ordered if row.feasible]
    assert made.best == (feasible[0] if feasible else None)
    assert {row.trial for row in made.ordered} == set(range(1, len(trials) + 1))
    assert len({len(line) for line in made.lines()}) == 1 and len(read_csv(made)) == len(trials)
    assert json.loads(made.json())["best"] == made.best


def test_a_table_needs_neither_torch_nor_ray_nor_matplotlib() -> None:
    code = "import sys, workers.searching.table; print(*{'torch', 'ray', 'optuna', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
