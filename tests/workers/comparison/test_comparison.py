"""One table of several jobs: its figures, its forms, and which rows are of equal size."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.comparison.rows import dense, measured, results, row, score, speed
from workers.comparison.columns import in_order
from workers.comparison.comparison import SAME_SIZE_FRACTION, Comparison, near_in_size
from workers.comparison.row import TableRow
from workers.contracts.results import Results, TimesAsFast, Workload


def cells(made: Comparison) -> list[dict[str, str]]:
    """The lines of the table by title; of equal titles the last one."""
    head, *lines = made.lines()
    return [dict(zip(head, line, strict=True)) for line in lines]


def read_csv(made: Comparison) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(made.told("csv"))))


def test_figures_stand_beside_each_other_in_every_form() -> None:
    sleb = row("SLEB", {"kind": "sleb", "ratio": 0.3}, id="job_2", labels={"team": "a"}, seconds=7200.0,
               recipe={"resources": {"gpus": 2, "cpus": 1}})  # fmt: skip
    made = Comparison.of([row(id="job_1"), sleb])
    first, second = made.rows
    assert first.figures == {
        "method": "dress paper",
        "ratio": 0.25,
        "parameters": 1500,
        "parameters_fraction": 0.75,
        "bytes": 6000,
        "perplexity.valid.dense": 10.0,
        "perplexity.valid.pruned": 30.0,
        "perplexity.valid.recovered": 12.0,
        "perplexity.valid.ratio": 1.2,
        "peak_bytes": 5000,
        "seconds": 12.0,
        "gpu_hours": 0.0,
    }
    assert (second.figures["method"], second.figures["gpu_hours"], second.labels) == ("sleb", 4.0, {"team": "a"})
    told = cells(made)[0]
    assert (told["row"], told["parameters"], told["% of dense"], told["recovered"]) == (
        "ours",
        "1,500",
        "75.0%",
        "12.00",
    )
    line = read_csv(made)[1]
    assert (line["name"], line["id"], line["labels"], line["ratio"]) == ("SLEB", "job_2", "team=a", "0.3")
    assert line["perplexity.valid.ratio"] == "1.2" and line["gpu_hours"] == "4.0"
    assert Comparison.model_validate_json(made.told("json")) == made
    assert made.told("markdown").startswith("# Comparison\n\n| row")


def test_unfinished_and_failed_rows_say_so() -> None:
    running = row("late", status="unfinished", state="running: recover", results=Results(dense=dense()), seconds=None)
    failed = row("bad", status="failed", error="diverged: the loss is gone", results=Results())
    made = Comparison.of([running, failed])
    assert [line["row"] for line in cells(made)] == ["late (running: recover)", "bad (failed)"]
    assert cells(made)[0]["valid: dense"] == "10.00" and cells(made)[0]["recovered"] == ""
    assert "- **bad**: diverged: the loss is gone" in made.told("markdown")
    assert [line["status"] for line in read_csv(made)] == ["running: recover", "failed"]
    assert read_csv(made)[1]["error"] == "diverged: the loss is gone"


def test_tasks_stand_with_their_errors() -> None:
    scored = results(
        dense=dense(tasks={"piqa": score(0.6)}), recovered=measured(1500, 12.0, tasks={"piqa": score(0.55)})
    )
    made = Comparison.of([row(results=scored)])
    assert made.rows[0].figures["tasks.piqa.final"] == 0.55 and made.rows[0].figures["tasks.piqa.final.stderr"] == 0.02
    assert cells(made)[0]["piqa (acc): dense"] == "60.0% ± 2.0%" and cells(made)[0]["after"] == "55.0% ± 2.0%"
    assert read_csv(made)[0]["tasks.piqa.dense.stderr"] == "0.02"
    surprise = measured(1500, 12.0, tasks={"lambada": score(30.5, metric="perplexity", stderr=None)})
    alone = cells(Comparison.of([row(results=results(recovered=surprise))]))[0]
    assert alone["lambada (perplexity): after"] == "30.5", "no share, no percent; its column says of what it is"


def test_speed_is_the_paired_ratio_where_there_is_one() -> None:
    plain = results(dense=dense(speed=speed(100)), recovered=measured(1500, 12.0, speed=speed(130)))
    assert Comparison.of([row(results=plain)]).rows[0].figures["speed.generation.ratio"] == pytest.approx(1.3)
    paired = Workload(seconds=0.2, shortest_seconds=0.1, longest_seconds=0.3, rounds=3, operations=9, read_bytes=9,
                      ratio=TimesAsFast(median=1.25, p10=1.2, p90=1.4, rounds=3))  # fmt: skip
    last = measured(1500, 12.0, speed=speed(130, generation=paired, prompt=paired))
    figures = Comparison.of([row(results=results(dense=dense(speed=speed(100)), recovered=last))]).rows[0].figures
    assert [figures[f"speed.generation.ratio{end}"] for end in ("", ".p10", ".p90")] == [1.25, 1.2, 1.4]
    assert (figures["speed.prompt.ratio"], figures["speed.prompt.seconds"]) == (1.25, 0.2)


def test_zeros_are_no_parameters() -> None:
    surgeon = results(pruned=measured(2000, 13.0, nonzero_parameters=1490), recovered=None)
    made = Comparison.of([row(), row("LLM Surgeon", {"kind": "llm_surgeon", "ratio": 0.25}, results=surgeon)])
    assert made.rows[1].figures["parameters"] == 2000 and made.rows[1].figures["nonzero_parameters"] == 1490
    assert made.rows[1].figures["parameters_fraction"] == 0.745
    assert [row.same_size_as for row in made.rows] == [[1], [0]], "compared by what a reshaped model would hold"


def test_only_what_varies_has_a_column() -> None:
    names = [column.name for column in Comparison.of([row(), row("two")]).columns]
    assert not {"model", "data", "seed"} & set(names)
    other = {"model": {"source": "owner/other"}, "data": {"name": "ptb", "samples": 40, "split": "0:1"}, "seed": 1}
    made = Comparison.of([row(), row("two", recipe=other)])
    assert made.rows[1].figures["model"] == "owner/other" and made.rows[1].figures["seed"] == 1
    assert made.rows[1].figures["data"] == "ptb, 40 samples, 0:1"


def test_rows_are_put_in_order() -> None:
    rows = [row("b", results=results(recovered=measured(1400, 12.0))), row("a"), row("none", results=Results())]
    assert [each.name for each in in_order(rows, "parameters")] == ["b", "a", "none"]
    assert [each.name for each in in_order(rows, "-parameters")] == ["a", "b", "none"], "what is not known comes last"
    assert [each.name for each in in_order(rows, "name")] == ["a", "b", "none"]
    with pytest.raises(LookupError, match=r"no column 'size' here; sort by one of name, method"):
        in_order(rows, "size")


def test_no_formula_reaches_a_spreadsheet() -> None:
    made = Comparison.of([row("=HYPERLINK(1)", error="-1, or\n2")])
    assert made.told("csv").splitlines()[1].startswith("'=HYPERLINK(1),")
    assert read_csv(made)[0]["error"] == "'-1, or\n2"
    assert "\n2" not in "".join(
        line for line in made.told("markdown").splitlines(keepends=True) if line.startswith("|")
    )


def test_all_forms_are_written(tmp_path: Path) -> None:
    made = Comparison.of([row(), row("two")], title="A title", about="Why.")
    made.write(tmp_path)
    assert (tmp_path / "table.md").read_text("utf-8").startswith("# A title\n\nWhy.\n\n| row")
    assert (tmp_path / "table.csv").read_bytes().decode() == made.told("csv")
    assert json.loads((tmp_path / "table.json").read_text("utf-8"))["title"] == "A title"


@given(st.lists(st.none() | st.integers(1, 400), max_size=8))
def test_equal_size_is_within_one_per_cent_and_mutual(counts: list[int | None]) -> None:
    rows = [row(results=results(recovered=None, pruned=measured(count, 1.0) if count else None)) for count in counts]
    near = near_in_size(rows)
    for place, own in enumerate(counts):
        wanted = [
            other
            for other, count in enumerate(counts)
            if other != place and own and count and abs(own - count) <= SAME_SIZE_FRACTION * max(own, count)
        ]
        assert near[place] == wanted
        assert all(place in near[other] for other in near[place])


@given(st.lists(st.sampled_from([0.1, 1e-9, 12.0, 1e12, None]), min_size=1, max_size=4))
def test_every_figure_survives_every_form(perplexities: list[float | None]) -> None:
    rows: list[TableRow] = [row(str(place), results=results(recovered=measured(1500, value)))
                            for place, value in enumerate(perplexities)]  # fmt: skip
    made = Comparison.of(rows)
    assert [each.figures["perplexity.valid.recovered"] for each in made.rows] == perplexities
    assert [line["perplexity.valid.recovered"] for line in read_csv(made)] == [
        "" if value is None else str(value) for value in perplexities
    ]
    assert len({len(line) for line in made.lines()}) == 1


def test_a_table_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, workers.comparison.drawing; print(*{'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
