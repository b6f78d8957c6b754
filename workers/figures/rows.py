"""What figures of several jobs are drawn from: one small row a model. Imports no matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Accuracy:
    """What a model scored on a task."""

    value: float
    """Share of right answers, from 0 to 1."""
    standard_error: float | None = None
    """Of the share, over the task's questions."""


@dataclass(frozen=True)
class ComparedRow:
    """One model and what was measured of it. What is None or missing, or not a finite number, is not drawn."""

    name: str
    """What the row is called in its table."""
    model: str = ""
    """Which dense model it was made from; rows of different models never share axes."""
    method: str = ""
    """Rows of one method share colour and line; the name if it is empty."""
    is_control: bool = False
    """Stands beside the others for comparison: it never makes a curve by itself."""
    is_dense: bool = False
    """The model as it came: the reference of every figure. One such row a model is enough."""
    ratio: float | None = None
    """Share of the width, or of the layers, that was to go. A row that lacks the setting which a curve runs
    along, this or one of the next three, is a level line there."""
    strength: float | None = None
    """λ, the weight of the penalty."""
    samples: int | None = None
    """Training sequences."""
    corpus: str | None = None
    """The text that the method saw."""
    parameters: int | None = None
    """Parameters of the exported model, tied tensors once."""
    perplexity: Mapping[str, float | None] = field(default_factory=dict)
    """Perplexity by evaluation text."""
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    """Zero-shot accuracy by task, means over tasks included under their own names."""
    tokens_per_second: float | None = None
    """Generation throughput."""
    prompt_seconds: float | None = None
    """Seconds for one prompt."""
