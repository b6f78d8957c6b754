"""Rows gathered into the lines of a curve: what varies goes along the axis, what else differs makes another line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from workers.figures.rows import ComparedRow
from workers.figures.style import finite
from workers.written import plain

Setting = Callable[[ComparedRow], float | str | None]

SETTINGS: dict[str, Setting] = {
    "ratio": lambda row: row.ratio,
    "strength": lambda row: row.strength,
    "samples": lambda row: row.samples,
    "corpus": lambda row: row.corpus,
}
"""What a curve may run along."""

SHOWN = {"ratio": "ratio", "strength": "λ", "samples": "samples", "corpus": "on"}


@dataclass(frozen=True)
class Point:
    """The rows of a line that share their place on the axis, such as those of several seeds."""

    place: float | str
    mean: float
    least: float
    most: float
    count: int


@dataclass(frozen=True)
class Line:
    """One line of a curve, its points in the axis' order."""

    label: str
    points: list[Point]


def method_of(row: ComparedRow) -> str:
    """What rows of one colour share."""
    return row.method or row.name


def lines_along(rows: Sequence[ComparedRow], setting: str, value: Callable[[ComparedRow], float | None]) -> list[Line]:
    """One line for each method and each choice of the other settings, in the order in which they first appear.

    Args:
        setting: a key of `SETTINGS`; rows without it are left out, as are rows without a finite value.
    """
    groups: dict[tuple[object, ...], dict[float | str, list[float]]] = defaultdict(lambda: defaultdict(list))
    others = [name for name in SETTINGS if name != setting]
    for row in rows:
        place, figure = SETTINGS[setting](row), value(row)
        if place is not None and figure is not None and finite(figure) and not row.is_dense:
            groups[method_of(row), *(SETTINGS[name](row) for name in others)][place].append(figure)
    varying = [name for index, name in enumerate(others, start=1) if _varies(list(groups), index)]
    lines = []
    for key, points in groups.items():
        told = [f"{SHOWN[name]} {_shown(key[1 + others.index(name)])}" for name in varying]
        label = ", ".join([str(key[0]), *(text for text in told if not text.endswith(" None"))])
        lines.append(Line(label, [_point(place, points[place]) for place in _in_order(points)]))
    return lines


def _varies(keys: Sequence[tuple[object, ...]], index: int) -> bool:
    """Whether any one method's lines differ in this part of their keys."""
    values = defaultdict(set)
    for key in keys:
        values[key[0]].add(key[index])
    return any(len(found) > 1 for found in values.values())


def _in_order(points: dict[float | str, list[float]]) -> list[float | str]:
    """Numbers by size, words as they came."""
    return list(points) if any(isinstance(place, str) for place in points) else sorted(points, key=float)


def _point(place: float | str, values: Sequence[float]) -> Point:
    return Point(place, fmean(values), min(values), max(values), len(values))


def _shown(value: object) -> str:
    return plain(value) if isinstance(value, float | int) else str(value)
