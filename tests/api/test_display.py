"""What the command line shows of speed: both kinds of work, their quotients, and nothing that was not measured."""

from __future__ import annotations

from typing import Any

from api.display import results_table


def work(**changes: Any) -> dict[str, Any]:
    return {"seconds": 0.5, "peak_bytes": 3 * 2**20, "ratio": None, "ideal_ratio": None, **changes}


def rows(results: dict[str, Any]) -> dict[str, list[str]]:
    """The cells of each line by its title; of equal titles the first."""
    titles, *columns = ([str(cell) for cell in column.cells] for column in results_table(results).columns)
    lines: dict[str, list[str]] = {}
    for title, *cells in zip(titles, *columns, strict=True):
        lines.setdefault(title.strip(), cells)
    return lines


def test_both_kinds_of_work_are_shown_with_their_spread() -> None:
    speed = {"generation_tokens_per_second": 1000.0, "prompt_tokens_per_second": 5000.0, "prompt_tokens": 256}
    ratio = {"median": 1.234, "p10": 1.1, "p90": 1.3, "rounds": 5}
    faster = work(ratio=ratio, ideal_ratio=4 / 3, peak_bytes=2 * 2**20)
    results = {
        "dense": {"parameters": 2000, "speed": {**speed, "generation": work(), "prompt": work()}},
        "pruned": {"parameters": 1500, "speed": {**speed, "generation": faster, "prompt": work()}},
    }
    shown = rows(results)
    assert shown["tokens/s"] == ["1,000", "1,000"] and shown["tokens/s, prompt of 256"] == ["5,000", "5,000"]
    assert shown["x dense (p10 to p90)"] == ["", "1.23 (1.10 to 1.30)"]
    assert shown["x dense by arithmetic"] == ["", "1.33"]
    assert shown["peak memory, MiB"] == ["3.0", "2.0"]


def test_results_of_older_versions_are_shown_without_what_they_lack() -> None:
    older = {"dense": {"speed": {"generation_tokens_per_second": 1000.0}}}
    assert rows(older) == {"tokens/s": ["1,000"]}
    assert not rows({"dense": {"parameters": None}})


def test_tasks_are_shown_with_their_standard_errors() -> None:
    piqa = {"metric": "acc_norm", "value": 0.51234, "stderr": 0.0123}
    mean = {"metric": "mean", "value": 0.4, "stderr": None}
    results = {"dense": {"tasks": {"piqa": piqa, "paper_zero_shot": mean}}, "pruned": {"parameters": 2}}
    shown = rows(results)
    assert shown["piqa acc_norm"] == ["0.5123 ± 0.0123", ""]
    assert shown["paper_zero_shot mean"] == ["0.4000", ""]
