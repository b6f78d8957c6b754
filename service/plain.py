"""Contracts in the plain form in which the database keeps them, and the wire shows them."""

import math
from typing import Any

from workers.contracts.base import Contract
from workers.contracts.results import Results


def plain(event: Contract) -> dict[str, Any]:
    """An event's own fields, without its type; a figure that is none becomes null."""
    finite: dict[str, Any] = _finite(event.model_dump(mode="json", exclude={"type"}))
    return finite


def plain_results(results: Results) -> dict[str, Any]:
    """What was not asked for is absent."""
    finite: dict[str, Any] = _finite(results.model_dump(mode="json", exclude_none=True))
    return finite


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
