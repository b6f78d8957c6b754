"""A line of a table: one recipe and what became of it, as a study or a comparison shows it. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from workers.contracts.base import Contract
from workers.contracts.results import Measurement, Results

RowStatus = Literal["succeeded", "failed", "cancelled", "unfinished"]


class TableRow(Contract):
    """What became of one row."""

    name: str
    """What the row is called."""
    id: str | None = None
    """The job's id; null for a row that was run without the service."""
    labels: dict[str, str] = {}
    """The job's labels."""
    is_control: bool = False
    """Added for comparison, not asked for."""
    status: RowStatus
    """Where it stands; figures of a row that did not succeed are those measured so far."""
    state: str | None = None
    """What an unfinished job is at, such as `queued` or `running: recover`."""
    error: str | None = None
    """Why there are no figures, or not all."""
    seconds: float | None = None
    """What the row's stages cost. A stage that several rows share counts in each."""
    results: Results = Results()
    """All that was measured."""
    recipe: dict[str, Any] = Field(repr=False)
    """The complete recipe, with every default spelled out."""
    keys: list[str] = Field(default=[], repr=False)
    """Digests of all that decided the row's stages, in their order, where they are known."""

    @property
    def final(self) -> Measurement | None:
        """The model that the row ends with."""
        return final_of(self.results)

    @property
    def counted_parameters(self) -> int | None:
        """True parameters of the final model; without rows and columns of zeros, where its method leaves some."""
        return counted_parameters(self.final)

    @property
    def parameters_fraction(self) -> float | None:
        """Parameters left, of the dense model's; 1.0 is all of them."""
        return parameters_fraction(self.results)

    def perplexity_ratio(self, text: str) -> float | None:
        """Perplexity of the final model over the dense model's; below 1 is better than dense."""
        return quotient(perplexity(self.final, text), perplexity(self.results.dense, text))

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that a stage took, as measured on its device."""
        measured = [stage.measured_bytes for stage in (self.results.memory or {}).values()]
        return max((most for most in measured if most is not None), default=None)

    @property
    def gpu_hours(self) -> float | None:
        """GPUs times hours of the row's stages."""
        if self.seconds is None:
            return None
        return float(self.said("resources", "gpus") or 0) * self.seconds / 3600

    @property
    def standing(self) -> str:
        """The status in a word or two, as the table shows it."""
        return self.state if self.status == "unfinished" and self.state else self.status

    def said(self, *path: str) -> Any:
        """A field of the recipe, such as `method`, `kind`; None where the recipe has none."""
        place: Any = self.recipe
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        return place


def final_of(results: Results) -> Measurement | None:
    """The model that a recipe ends with."""
    return results.recovered or results.pruned


def counted_parameters(measured: Measurement | None) -> int | None:
    """True parameters of a model; without rows and columns of zeros, where its method leaves some."""
    if measured is None:
        return None
    return measured.parameters if measured.nonzero_parameters is None else measured.nonzero_parameters


def parameters_fraction(results: Results) -> float | None:
    """Parameters that the final model has left, of the dense model's; 1.0 is all of them."""
    return quotient(counted_parameters(final_of(results)), results.dense.parameters if results.dense else None)


def perplexity(measured: Measurement | None, text: str) -> float | None:
    """Perplexity on a text; None if it was not measured or is no finite number."""
    return ((measured and measured.perplexity) or {}).get(text)


def quotient(part: float | None, whole: float | None) -> float | None:
    """Part of a whole; None where one is not known or the whole is nothing."""
    return part / whole if part is not None and whole else None
