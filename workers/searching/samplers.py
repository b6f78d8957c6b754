"""How the next point is chosen: a grid walked through, or Optuna asked, each time from what is recorded alone.

Optuna's samplers carry hidden state (random streams, caches). None is kept here: for each trial a fresh sampler is
seeded by (search seed, trial number) and told all recorded trials in recorded order, so that a point depends on nothing
that a crash could lose.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from workers.contracts.dimension import Dimension
from workers.contracts.search import Point, Search
from workers.contracts.trials import TrialRecord

optuna.logging.set_verbosity(optuna.logging.WARNING)

_DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}

_FAR = 1e30
"""Stands for a figure that is no finite number: worse than any other, and still one that a sampler can rank."""


def proposed(search: Search, number: int, record: Sequence[TrialRecord]) -> Point | None:
    """The point of a trial; None once a grid has been walked through.

    Args:
        number: the trial's, from 1.
        record: all trials proposed before it, by number; those that have not ended are under way.
    """
    if number <= len(search.first):
        return dict(search.first[number - 1])
    if search.algorithm == "grid":
        return search.grid_point(number - len(search.first) - 1)
    return _asked(search, number, record)


def _asked(search: Search, number: int, record: Sequence[TrialRecord]) -> Point:
    distributions = {field: _distribution(dimension) for field, dimension in search.space.items()}
    directions = [_DIRECTIONS[each.mode] for each in search.objectives]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = _SAMPLERS[search.algorithm](search, _seed(search.seed, number))
        study = optuna.create_study(directions=directions, sampler=sampler)
        ended = [trial for trial in record if trial.finished is not None]
        running = [trial for trial in record if trial.finished is None]
        for known in (*sorted(ended, key=lambda trial: trial.ended_as or 0), *running):
            study.add_trial(_told(search, known, distributions))
        asked = study.ask(distributions)
    return {field: _value(search.space[field], asked.params[field]) for field in search.space}


def _told(search: Search, known: TrialRecord, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """A recorded trial as Optuna keeps it. Points that were given (`first`) may leave fields out."""
    params = {
        field: inner
        for field, value in known.point.items()
        if (inner := _inner(search.space[field], value)) is not None
    }
    space = {field: distributions[field] for field in params}
    finished = known.finished
    if finished is None:
        return create_trial(state=TrialState.RUNNING, params=params, distributions=space)
    excesses = {str(place): _number(excess) for place, excess in enumerate(finished.excesses or [])}
    if finished.status == "succeeded" and finished.values:
        values = [_figure(value, each.mode) for value, each in zip(finished.values, search.objectives, strict=True)]
        return create_trial(
            state=TrialState.COMPLETE, params=params, distributions=space, values=values, constraints=excesses
        )
    if finished.status == "stopped" and len(search.objectives) == 1 and known.reports:
        # What stopped early is known to be worse than others at its last rung. TPE ranks such trials by that.
        reports = {report.rung: _signed(report.value, search) for report in known.reports}
        return create_trial(
            state=TrialState.PRUNED, params=params, distributions=space, intermediate_values=reports,
            constraints=excesses,
        )  # fmt: skip
    return create_trial(state=TrialState.FAIL, params=params, distributions=space)


def _number(excess: float | None) -> float:
    return _FAR if excess is None else excess


def _figure(value: float | None, mode: str) -> float:
    if value is None or not math.isfinite(value):
        return _FAR if mode == "min" else -_FAR
    return value


def _signed(loss: float | None, search: Search) -> float:
    """A rung's loss, less of which is better, as if it were a value of the objective's direction."""
    value = _figure(loss, "min")
    return value if search.objectives[0].mode == "min" else -value


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choice is not None:
        return CategoricalDistribution(range(len(dimension.choice)))  # by place: a choice may be a whole section
    if dimension.quniform is not None:
        lowest, highest, step = dimension.quniform
        return FloatDistribution(lowest, highest, step=step)
    if (whole := dimension.randint or dimension.lograndint) is not None:
        return IntDistribution(*whole, log=dimension.lograndint is not None)
    lowest, highest = dimension.uniform or dimension.loguniform or (0.0, 1.0)
    return FloatDistribution(lowest, highest, log=dimension.loguniform is not None)


def _value(dimension: Dimension, inner: Any) -> Any:
    """Of what Optuna chose, the value that the recipe gets."""
    if dimension.choice is not None:
        return dimension.choice[inner]
    return round(inner, 12) if dimension.quniform is not None else inner


def _inner(dimension: Dimension, value: Any) -> Any:
    """The other way round; None for a value that the space does not have, which was given by hand."""
    if dimension.choice is not None:
        return dimension.choice.index(value) if value in dimension.choice else None
    if not isinstance(value, int | float) or not _distribution(dimension)._contains(value):
        return None
    return value


def _seed(search_seed: int, number: int) -> int:
    """Apart for every pair, so that neighbouring searches do not draw the same numbers a trial later."""
    return int.from_bytes(hashlib.sha256(f"{search_seed}:{number}".encode()).digest()[:4], "big")


def _tpe(search: Search, seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, constant_liar=search.concurrency > 1)


def _nsga2(search: Search, seed: int) -> BaseSampler:
    population = min(50, max(4, search.trials_at_most // 4))
    return NSGAIISampler(seed=seed, population_size=population)


_SAMPLERS: dict[str, Callable[[Search, int], BaseSampler]] = {
    "random": lambda _search, seed: RandomSampler(seed=seed),
    "tpe": _tpe,
    "nsga2": _nsga2,
}
