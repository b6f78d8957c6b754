"""Contracts in the plain form in which the database keeps them, and the wire shows them."""

import math
from typing import Any

from workers.contracts.base import Contract
from workers.contracts.results import Results


def plain(event: Contract) -> dict[str, Any]:
    """An event's own fields, without its type; a figure that is none becomes null, and text is `storable`."""
    kept: dict[str, Any] = _kept(event.model_dump(mode="json", exclude={"type"}))
    return kept


def plain_results(results: Results) -> dict[str, Any]:
    """What was not asked for is absent."""
    kept: dict[str, Any] = _kept(results.model_dump(mode="json", exclude_none=True))
    return kept


def storable(text: str) -> str:
    """Text that every database keeps. What a worker tells, such as the bytes of a broken file in an error, may hold NUL
    or half a character; refusing it would keep the attempt from ever ending."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _kept(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _kept(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_kept(item) for item in value]
    if isinstance(value, str):
        return storable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
