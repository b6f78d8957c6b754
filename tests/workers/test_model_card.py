"""The card's table of speeds: measured and possible quotients, and no line that nothing is known for."""

from __future__ import annotations

from typing import Any

from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results, Speed, TimesAsFast, Workload
from workers.contracts.tasks import TaskFigure
from workers.model_card import model_card

RECIPE = Recipe.model_validate({"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}})


def workload(**changes: Any) -> Workload:
    plain = {"seconds": 1.0, "shortest_seconds": 0.9, "longest_seconds": 1.1, "rounds": 3, "operations": 10}
    return Workload.model_validate({**plain, "read_bytes": 20, "peak_bytes": 5 * 2**20, **changes})


def speed(**changes: Any) -> Speed:
    plain = {"generation_tokens_per_second": 1234.0, "slowest": 1.0, "fastest": 2.0, "batch_size": 64}
    return Speed.model_validate({**plain, "new_tokens": 128, "rounds": 3, "threads": 1, "device": "cpu", **changes})


def card(dense: Speed | None, pruned: Speed | None) -> str:
    results = Results(dense=Measurement(parameters=20, speed=dense), pruned=Measurement(parameters=15, speed=pruned))
    return model_card(RECIPE, results, "0" * 64, {"license": "mit"}, None)


def test_quotients_stand_beside_what_arithmetic_allows() -> None:
    ratio = TimesAsFast(median=1.2, p10=1.1, p90=1.25, rounds=3)
    prompted = {"prompt_tokens": 2048, "prompt_tokens_per_second": 99.0}
    dense = speed(generation=workload(), prompt=workload(), **prompted)
    told = card(dense, speed(generation=workload(ratio=ratio, ideal_ratio=1.5), prompt=workload(), **prompted))
    assert "| tokens/s on cpu, 64 x 128 generated | 1,234 | 1,234 |" in told
    assert "| times dense (p10 to p90) |  | 1.20 (1.10 to 1.25) |" in told
    assert "| times dense by arithmetic |  | 1.50 |" in told
    assert "| tokens/s on cpu, a prompt of 2048 | 99 | 99 |" in told
    assert told.count("| peak memory, MiB | 5.0 | 5.0 |") == 2


def test_what_was_not_measured_has_no_line() -> None:
    assert "tokens/s" not in card(None, None)
    older = card(speed(), None)
    assert "| tokens/s on cpu, 64 x 128 generated | 1,234 |  |" in older
    assert "prompt" not in older and "times dense" not in older and "peak memory" not in older


def test_zeros_in_unchanged_shapes_are_told_and_counted() -> None:
    surgeon = Recipe.model_validate(
        {"model": {"source": "some/model"}, "method": {"kind": "llm_surgeon", "ratio": 0.3}}
    )
    pruned = Measurement(parameters=2000, nonzero_parameters=1500)
    told = model_card(surgeon, Results(dense=Measurement(parameters=2000), pruned=pruned), "0" * 64, {"license": "mit"})
    assert "30% of the elements of the blocks' linear layers were set to zero" in told
    assert "| nonzero parameters |  | 1,500 |" in told and "| parameters | 2,000 | 2,000 |" in told
    assert "nonzero" not in card(None, None)


def test_tasks_stand_with_their_errors_and_what_they_rest_on() -> None:
    def figure(value: float, stderr: float | None) -> TaskFigure:
        told = {"metric": "acc_norm", "value": value, "stderr": stderr, "n": 1838, "num_fewshot": 0}
        return TaskFigure.model_validate({**told, "version": "lm-eval 1, task version 1.0", "source": "piqa.jsonl"})

    dense = Measurement(tasks={"piqa": figure(0.51234, 0.01166)})
    results = Results(
        dense=dense, pruned=Measurement(parameters=1), recovered=Measurement(tasks={"piqa": figure(0.5, None)})
    )
    told = model_card(RECIPE, results, "0" * 64, {"license": "mit"}, None)
    title = "piqa, acc_norm (0-shot, 1,838 rows, lm-eval 1, task version 1.0)"
    assert f"| {title} | 0.5123 ± 0.0117 |  | 0.5000 |" in told
