"""The figures of a job that a search may seek or bound, by name: what is read, and from which of the models."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from workers.contracts.base import Contract
from workers.contracts.recipe import Recipe
from workers.contracts.results import Measurement, Results, Subject, Workload

SUBJECTS: tuple[Subject, ...] = get_args(Subject)

_SIZES = ("parameters", "nonzero_parameters", "bytes", "hidden_size")
_WORK = ("latency.prompt", "latency.generation", "memory.prompt", "memory.generation")
_NAMED = ("perplexity", "tasks")
_ALIASES = {"latency": "latency.prompt", "memory": "memory.prompt"}

MetricName = Annotated[
    str,
    Field(
        pattern=r"^((dense|pruned|recovered)\.)?([a-z_]+)(\.[A-Za-z0-9_.-]{1,64})?$",
        examples=["recovered.perplexity.wikitext2", "latency.prompt", "parameters"],
    ),
]
"""`perplexity.NAME`, `tasks.NAME`, `parameters`, `nonzero_parameters`, `bytes`, `hidden_size`, `latency.prompt`,
`latency.generation` (seconds a pass), `memory.prompt`, `memory.generation` (peak bytes); `dense.`, `pruned.` or
`recovered.` before it says of which model, else of the last one that the recipe makes. `latency` alone is that of the
prompt."""

_OBJECTIVE = re.compile(r"^\s*(\S+)\s+(min|max)\s*$")
_CONSTRAINT = re.compile(r"^\s*(\S+)\s*(<=|≤|>=|≥)\s*([-+0-9.eE]+)\s*(?:[x×*]?\s*(?:of\s+)?(dense))?\s*$")


class _Figure(Contract):
    """A figure by name."""

    metric: MetricName

    @model_validator(mode="after")
    def _known(self) -> Self:
        _, name = self._parts()
        if name not in (*_SIZES, *_WORK) and name.partition(".")[0] not in _NAMED:
            known = ", ".join((*(f"{each}.NAME" for each in _NAMED), *_SIZES, *_WORK))
            raise ValueError(f"metric: {self.metric} is none of {known}; dense., pruned. or recovered. may precede it")
        if name in _NAMED:
            raise ValueError(f"metric: {self.metric} of what? Write {name}.NAME, as the recipe's evaluate names it")
        return self

    def _parts(self) -> tuple[Subject | None, str]:
        first, _, rest = self.metric.partition(".")
        subject: Subject | None = next((each for each in SUBJECTS if each == first), None)
        name = self.metric if subject is None else rest
        return subject, _ALIASES.get(name, name)

    def fault(self, recipe: Recipe) -> str | None:
        """Why no trial of this recipe would report the figure; None if it does."""
        subject, name = self._parts()
        wanted, _, of = name.partition(".")
        evaluate = recipe.evaluate
        if subject == "recovered" and recipe.recover.kind == "none":
            return f"{self.metric}: recover.kind is none, so there is no recovered model; say pruned., or recover"
        if wanted == "perplexity" and of not in (keys := [text.key for text in evaluate.perplexity]):
            return f"{self.metric} is not reported: evaluate.perplexity has {', '.join(keys) or 'no text'}; add {of}"
        if wanted == "tasks":
            names = [task.name for task in evaluate.wanted_tasks] + [task.name for task in evaluate.tasks]
            if of not in names:
                return f"{self.metric} is not reported: evaluate.tasks has {', '.join(names) or 'no task'}; add {of}"
            if (subject or _last(recipe)) not in evaluate.tasks_of:
                return f"{self.metric} is not reported: evaluate.tasks_of leaves out that model"
        if name in _WORK and evaluate.speed_settings is None:
            return f"{self.metric} is not reported: set evaluate.speed to true"
        return None

    def value(self, results: Results, of: Literal["dense"] | None = None) -> float | None:
        """The figure, or its share of the dense model's; None if it was not measured or is no finite number."""
        subject, name = self._parts()
        measured = getattr(results, subject) if subject else results.recovered or results.pruned
        if measured is None:
            return None
        value = _read(measured, name)
        if of is not None and value is not None:
            value = _share(measured, results.dense, name, value)
        return value if value is not None and math.isfinite(value) else None


def _last(recipe: Recipe) -> Subject:
    return "pruned" if recipe.recover.kind == "none" else "recovered"


def _read(measured: Measurement, name: str) -> float | None:
    wanted, _, of = name.partition(".")
    if wanted == "perplexity":
        return (measured.perplexity or {}).get(of)
    if wanted == "tasks":
        task = (measured.tasks or {}).get(of)
        return None if task is None else task.value
    if wanted in ("latency", "memory"):
        work = _work(measured, of)
        return None if work is None else work.seconds if wanted == "latency" else work.peak_bytes
    size: float | None = getattr(measured, name)
    return size


def _work(measured: Measurement, of: str) -> Workload | None:
    work: Workload | None = None if measured.speed is None else getattr(measured.speed, of)
    return work


def _share(measured: Measurement, dense: Measurement | None, name: str, value: float) -> float | None:
    wanted, _, of = name.partition(".")
    work = _work(measured, of) if wanted == "latency" else None
    if work is not None and work.ratio is not None:
        return 1 / work.ratio.median  # taken round by round, against the dense model of the same round
    whole = None if dense is None else _read(dense, name)
    return value / whole if whole else None


class Objective(_Figure):
    """What is sought, also written `perplexity.wikitext2 min`."""

    mode: Literal["min", "max"] = "min"
    """Whether less of it is better, or more."""

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        words = _OBJECTIVE.match(given)
        if words is None:
            raise ValueError(f"{given!r}: write METRIC min or METRIC max, such as perplexity.wikitext2 min")
        return {"metric": words[1], "mode": words[2]}

    def better(self, value: float) -> float:
        """The value, turned so that less is better."""
        return value if self.mode == "min" else -value


class Constraint(_Figure):
    """A bound, also written `latency.prompt <= 0.8 dense`."""

    at_most: float | None = None
    at_least: float | None = None
    of: Literal["dense"] | None = None
    """`dense` takes the bound as a share of the dense model's figure. Left out, so is a bound of at most 1 on
    `parameters` or `bytes`."""

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        words = _CONSTRAINT.match(given)
        if words is None:
            raise ValueError(f"{given!r}: write METRIC <= BOUND or METRIC >= BOUND, perhaps with dense behind it")
        side = "at_most" if words[2] in ("<=", "≤") else "at_least"
        try:
            bound = float(words[3])
        except ValueError as error:
            raise ValueError(f"{given!r}: {words[3]} is no number") from error
        return {"metric": words[1], side: bound, **({"of": "dense"} if words[4] else {})}

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("needs at_most or at_least, one of the two")
        return self

    @property
    def is_share(self) -> bool:
        """Whether the bound is a share of the dense model's figure."""
        bound = self.at_most if self.at_most is not None else self.at_least
        _, name = self._parts()
        return self.of == "dense" or (name in ("parameters", "bytes") and bound is not None and bound <= 1)

    def excess(self, results: Results) -> float | None:
        """How far the bound is passed: kept at 0 or below; None if the figure was not measured."""
        value = self.value(results, "dense" if self.is_share else None)
        if value is None:
            return None
        return value - self.at_most if self.at_most is not None else (self.at_least or 0.0) - value

    def told(self) -> str:
        """The bound in words."""
        side, bound = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        return f"{self.metric} {side} {bound:g}{' dense' if self.is_share else ''}"
