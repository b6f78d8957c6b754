"""The values that one field of a search's space may take, as a range or one by one."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, JsonValue, model_validator

from workers.contracts.base import Contract
from workers.contracts.recipe import parse_yaml

MOST_GRID_VALUES = 1000
"""Values of one field that a grid walks through."""

_KINDS = ("choice", "uniform", "loguniform", "quniform", "randint", "lograndint")
_CALL = re.compile(r"^\s*([a-z]+)\s*\((.*)\)\s*$", re.DOTALL)

Bounds = Annotated[tuple[float, float], Field(strict=False)]
WholeBounds = Annotated[tuple[int, int], Field(strict=False)]


class Dimension(Contract):
    """The values that one field may take: exactly one of the kinds below, also written `loguniform(1e-5, 1e-1)`."""

    choice: Annotated[list[JsonValue], Field(min_length=1, max_length=MOST_GRID_VALUES)] | None = None
    """One of these values, which may be of any kind, whole sections too; the word `boolean` stands for both truths."""
    uniform: Bounds | None = None
    """A number between two bounds."""
    loguniform: Bounds | None = None
    """A number between two bounds above 0, each order of magnitude alike."""
    quniform: Annotated[tuple[float, float, float], Field(strict=False)] | None = None
    """A number between two bounds, in steps: `[lowest, highest, step]`."""
    randint: WholeBounds | None = None
    """A whole number, both bounds included."""
    lograndint: WholeBounds | None = None
    """A whole number above 0, both bounds included, each order of magnitude alike."""

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if given.strip() == "boolean":
            return {"choice": [False, True]}
        call = _CALL.match(given)
        if call is None or call[1] not in _KINDS:
            raise ValueError(f"{given!r}: write one of {', '.join(f'{kind}(...)' for kind in _KINDS)}, or boolean")
        try:
            return {call[1]: parse_yaml(f"[{call[2]}]")}
        except yaml.YAMLError as error:
            raise ValueError(f"{given!r}: what stands between the brackets is no list of values") from error

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(_KINDS)}; it has {', '.join(given) or 'none'}")
        if self.choice is not None:
            return self
        lowest, highest, *step = getattr(self, given[0])
        if not (math.isfinite(lowest) and math.isfinite(highest)) or lowest >= highest:
            raise ValueError(f"{given[0]}: {lowest:g} to {highest:g} is an empty range; write the lower bound first")
        if given[0].startswith("log") and lowest <= 0:
            raise ValueError(f"{given[0]}: the lower bound is {lowest:g}; a logarithm needs one above 0")
        if step and not 0 < step[0] <= (highest - lowest) * (1 + 1e-9):  # 0.3 - 0.2 is less than 0.1
            raise ValueError(f"quniform: a step of {step[0]:g} does not fit between {lowest:g} and {highest:g}")
        return self

    @property
    def values(self) -> list[JsonValue] | None:
        """All of them, in order; None where there is no end to them, or no sense in naming each."""
        if self.choice is not None:
            return self.choice
        if self.quniform is not None:
            lowest, highest, step = self.quniform
            count = math.floor((highest - lowest) / step + 1e-9) + 1
            return [round(lowest + place * step, 12) for place in range(count)] if count <= MOST_GRID_VALUES else None
        whole = self.randint or self.lograndint
        if whole is None or whole[1] - whole[0] >= MOST_GRID_VALUES:
            return None
        return list(range(whole[0], whole[1] + 1))

    @property
    def probes(self) -> list[JsonValue]:
        """Values to try the recipe with: all that are listed one by one, of a range both ends."""
        if self.choice is not None:
            return self.choice
        lowest, highest, *_ = next(filter(None, (getattr(self, kind) for kind in _KINDS)))
        return [lowest, highest]
