"""What a search seeks, as axes of figures: the metric in words, its unit, and which side of it is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.contracts.metrics import Objective
from workers.figures.comparison import MEANS
from workers.figures.scatter import count_unit, time_unit
from workers.figures.style import finite, shown_text
from workers.searching.row import TrialRow, without_subject

_MEBIBYTE, _GIBIBYTE = 2.0**20, 2.0**30

_WORDS = {
    "parameters": "Parameters",
    "nonzero_parameters": "Parameters without zeros",
    "bytes": "Weights on disk",
    "hidden_size": "Hidden size",
    "latency.prompt": "Time of one prompt",
    "latency.generation": "Time of one batch generated",
    "memory.prompt": "Peak memory of one prompt",
    "memory.generation": "Peak memory of one batch generated",
}


@dataclass(frozen=True)
class Measure:
    """One figure of the trials, in a unit that suits them."""

    metric: str
    """As the search names it."""
    short: str
    """What titles call it."""
    unit: str
    size: float
    """A value in the figure's unit is the recorded one divided by this."""
    is_less_better: bool

    @property
    def label(self) -> str:
        """The axis' label, with unit and better side."""
        side = f"{'lower' if self.is_less_better else 'higher'} is better"
        return f"{self.short} ({f'{self.unit}, ' if self.unit else ''}{side})"

    def value(self, row: TrialRow) -> float | None:
        """The trial's figure in this unit; None for what has no place on an axis."""
        found = row.values.get(self.metric)
        if self.metric == "parameters" and found is None:
            found = row.parameters
        return found / self.size if found is not None and finite(found) else None

    def of_dense(self, rows: Sequence[TrialRow]) -> float | None:
        """The dense model's figure, of the first trial that knows it."""
        known = (row.dense.get(self.metric) for row in rows)
        found = next((value for value in known if value is not None), None)
        return None if found is None else found / self.size

    def better(self, value: float) -> float:
        """The value, turned so that less is better."""
        return value if self.is_less_better else -value


def measure_of(objective: Objective, rows: Sequence[TrialRow]) -> Measure:
    """An objective as the figures call it, in a unit that suits its largest value."""
    name = without_subject(objective.metric)
    known = [value for row in rows if (value := row.values.get(objective.metric)) is not None and finite(value)]
    if name == "parameters":
        known += [float(row.parameters) for row in rows if row.parameters is not None]
    unit, size = _unit(name, known)
    subject = objective.metric.partition(".")[0]
    model = f", {subject} model" if subject in ("dense", "pruned") else ""
    return Measure(objective.metric, f"{_words(name)}{model}", unit, size, objective.mode == "min")


def _words(name: str) -> str:
    kind, _, of = name.partition(".")
    if kind == "perplexity":
        return f"Perplexity on {shown_text(of)}"
    if kind == "tasks":
        return "Mean zero-shot score" if of in MEANS else f"Score on {shown_text(of)}"
    return _WORDS[name]


def _unit(name: str, known: Sequence[float]) -> tuple[str, float]:
    most = max(known, default=0.0)
    if name in ("parameters", "nonzero_parameters"):
        return count_unit(most)
    if name.startswith("latency."):
        return time_unit(most)
    if name == "bytes" or name.startswith("memory."):
        return ("GiB", _GIBIBYTE) if most >= _GIBIBYTE else ("MiB", _MEBIBYTE)
    if name == "hidden_size":
        return "channels", 1.0
    is_share = name.startswith("tasks.") and bool(known) and all(0 <= value <= 1 for value in known)
    return ("%", 0.01) if is_share else ("", 1.0)
