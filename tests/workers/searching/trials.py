"""A search of 24 trials with every kind of ending, as its record tells it."""

from __future__ import annotations

import math
from typing import Any

from tests.workers.comparison.rows import measured
from workers.contracts.results import Results
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord, TrialFinished, TrialRecord, TrialReported

STRENGTHS = (1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)
DENSE_PERPLEXITY = 5.47
DENSE_PARAMETERS = 6_738_415_616


def search(**changes: Any) -> Search:
    plain: dict[str, Any] = {
        "title": "λ at three ratios",
        "base": {
            "model": {"source": "owner/name"},
            "method": {"kind": "dress", "preset": "paper", "ratio": 0.25},
            "evaluate": {"perplexity": ["wikitext2"]},
        },
        "space": {"method.strength": "loguniform(1e-5, 1e-1)", "method.ratio": {"choice": [0.2, 0.3, 0.5]}},
        "objective": "recovered.perplexity.wikitext2 min",
        "constraints": ["parameters <= 0.75 dense"],
        "scheduler": "asha",
        "trials": 24,
        **changes,
    }
    return Search.model_validate(plain)


def perplexity(strength: float, ratio: float) -> float:
    """The shape of the paper's Table 6, worse at higher ratios."""
    return 5.6 + 3 * ratio + (0.25 + 2 * ratio) * (math.log10(strength) + 2.8) ** 2


def results(value: float | None, parameters: int) -> Results:
    dense = measured(DENSE_PARAMETERS, None).model_copy(update={"perplexity": {"wikitext2": DENSE_PERPLEXITY}})
    final = measured(parameters, None).model_copy(update={"perplexity": {"wikitext2": value}})
    return Results(dense=dense, pruned=final, recovered=final)


def reported(trial: int, values: list[float | None], *, stopped: bool = False) -> list[TrialReported]:
    last = len(values) - 1
    return [
        TrialReported(trial=trial, rung=rung, value=value, decision="stop" if stopped and rung == last else "go_on")
        for rung, value in enumerate(values)
    ]


def succeeded(
    trial: int, point: dict[str, Any], value: float | None, parameters: int = 5_000_000_000, **changes: Any
) -> TrialRecord:
    """A trial of a search for perplexity and parameters, under one constraint."""
    told = results(value, parameters)
    plain: dict[str, Any] = {
        "values": [value, float(parameters)],
        "excesses": [parameters / DENSE_PARAMETERS - 0.75],
        "seconds": 600.0,
        "gpu_seconds": 600.0,
        "avoided_seconds": 90.0,
        "avoided_by_stage": {"evaluate dense": 20.0, "regularize": 70.0},
        **changes,
    }
    finished = TrialFinished(trial=trial, status="succeeded", results=told, **plain)
    return TrialRecord(trial=trial, point=point, finished=finished, ended_as=trial)


def ended(trial: int, status: Any, point: dict[str, Any], **changes: Any) -> TrialRecord:
    finished = TrialFinished(trial=trial, status=status, seconds=80.0, gpu_seconds=80.0, **changes)
    return TrialRecord(trial=trial, point=point, finished=finished, ended_as=trial)


def record() -> SearchRecord:
    """Trials 1 to 21 by ratio and λ; 5 failed, 7 and 14 to 16 were stopped, 22 diverged, 23 and 24 are under way."""
    trials = []
    for number in range(1, 22):
        strength, ratio = STRENGTHS[(number * 3) % 7], (0.2, 0.3, 0.5)[number % 3]
        point = {"method.strength": strength, "method.ratio": ratio}
        value = perplexity(strength, ratio)
        losses: list[float | None] = [math.log(value) + part for part in (1.4, 0.7)]
        if number == 5:
            made = ended(
                5, "failed", point, code="diverged", message="diverged: the loss is gone\nlower method.strength | rate"
            )
        elif number in (7, 14, 15, 16):
            made = ended(number, "stopped", point, message="beaten at its rung")
            losses = losses[: 1 + number % 2]
        else:
            made = succeeded(number, point, value, round(DENSE_PARAMETERS * (1 - ratio) ** 1.05))
        reports = [] if number == 5 else reported(number, losses, stopped=number in (7, 14, 15, 16))
        trials.append(made.model_copy(update={"reports": reports}))
    trials.append(succeeded(22, {"method.strength": 0.09, "method.ratio": 0.5}, None))
    trials += [
        TrialRecord(trial=number, point={"method.strength": 2e-4 * number, "method.ratio": 0.3}) for number in (23, 24)
    ]
    return SearchRecord(trials=trials)
