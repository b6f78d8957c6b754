"""How figures look: colours that colour-blind readers tell apart, with markers and dashes that say the same again."""

from __future__ import annotations

import math
import textwrap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from workers.written import plain

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette (Color Universal Design, 2008) without its yellow, which is pale on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1.2, 1, 1.2, 1)))
DENSE_COLOUR = "#404040"
GREY = "#6b6b6b"

WIDTH_INCHES = 6.4
"""At 100 dots an inch 640 pixels, at which every letter is meant to be read."""

LARGE_RANGE = 10.0
"""From this quotient of the largest to the smallest value on, an axis is logarithmic."""

MANY_DECADES = 1e3
"""From this quotient on, ticks stand at powers of ten alone."""

STYLE = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that every machine draws the same
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "text.color": "#1a1a1a",
    "text.parse_math": False,
    "axes.labelcolor": "#1a1a1a",
    "axes.edgecolor": "#4d4d4d",
    "xtick.color": "#1a1a1a",
    "ytick.color": "#1a1a1a",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dedede",
    "grid.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "svg.hashsalt": "dress",
}

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def styled() -> Iterator[None]:
    """Draw and render in the house's style. One thread at a time: matplotlib's settings belong to the process."""
    with _ONE_AT_A_TIME, rc_context(STYLE):  # type: ignore[arg-type]  # stubs know only some names
        yield


def figure_of(title: str, height_inches: float = 4.0) -> Figure:
    """An empty figure with a title, which wraps."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    figure.suptitle(wrapped(title, 56), fontsize=12, fontweight="bold")
    return figure


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most so many characters; long words are broken, and no text is dropped."""
    return "\n".join(textwrap.wrap(text, width)) or text


def finite(value: float | None) -> bool:
    """Whether there is something to draw."""
    return value is not None and math.isfinite(value)


def scale_by_range(axes: Axes, axis: Literal["x", "y"], values: Iterable[float]) -> None:
    """Make the axis logarithmic where its values are positive and far apart."""
    known = [value for value in values if finite(value)]
    if known and min(known) > 0 and max(known) / min(known) >= LARGE_RANGE:
        logarithmic(axes, axis, max(known) / min(known))


def logarithmic(axes: Axes, axis: Literal["x", "y"], spread: float) -> None:
    """A logarithmic axis with ticks written out; `spread` is the quotient of its largest to its smallest value."""
    if axis == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    one = axes.xaxis if axis == "x" else axes.yaxis
    one.set_major_locator(LogLocator(subs=(1.0,) if spread > MANY_DECADES else (1.0, 2.0, 5.0)))
    one.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    one.set_minor_formatter(NullFormatter())


def level_line(axes: Axes, value: float, label: str, number: int = 0) -> None:
    """A level line across the axes: what does not depend on their horizontal axis. Number 0 is the dense model's."""
    if number == 0:
        axes.axhline(value, color=DENSE_COLOUR, linestyle=(0, (4, 3)), linewidth=1.3, label=label)
    else:
        dashes = DASHES[1 + number % (len(DASHES) - 1)]
        axes.axhline(value, color=GREY, linestyle=dashes, linewidth=1.3, label=label)


def legend_below(figure: Figure, panels: Sequence[Axes], columns: int = 2) -> None:
    """One legend under the panels, where it covers no point; the figure grows by its lines."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(wrapped(label, 76 // columns), handle)
    if not entries:
        return
    columns = min(columns, len(entries))
    tallest = max(text.count("\n") + 1 for text in entries)
    figure.set_figheight(figure.get_figheight() + 0.19 * tallest * math.ceil(len(entries) / columns) + 0.1)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def look(number: int) -> tuple[str, str, Any]:
    """Colour, marker and dashes of the method with this number; no two of the first 35 look alike."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)]


WRITTEN = {
    "wikitext2": "WikiText-2",
    "wikitext2_tokens": "WikiText-2 (tokens)",
    "ptb": "PTB",
    "c4": "C4",
    "alpaca": "Alpaca",
    "stdlib_docs": "library documentation",
    "piqa": "PIQA",
    "winogrande": "WinoGrande",
    "hellaswag": "HellaSwag",
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "paper_zero_shot": "mean of the five",
}


def shown_text(name: str) -> str:
    """A text's or a task's name as papers write it."""
    return WRITTEN.get(name, name)
