"""Tables as text: numbers as people read them, Markdown that reads well as it stands, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

Value = str | int | float | None

Form = Literal[
    "text", "count", "percent", "perplexity", "ratio", "speedup", "rate", "seconds", "hours", "figure", "plain"
]
"""How a column's figures are written for people; programs get them as they are."""

_FORMS: Mapping[str, str] = {
    "count": "{:,}",
    "percent": "{:.1%}",
    "perplexity": "{:,.2f}",
    "ratio": "{:.3f}",
    "speedup": "{:.2f}",
    "rate": "{:,.0f}",
    "hours": "{:.3g}",
    "figure": "{:,.4g}",
    "plain": "{}",
}

TableForm = Literal["json", "markdown", "csv"]
"""In which words a table is told."""

ENDINGS: dict[TableForm, str] = {"json": "json", "markdown": "md", "csv": "csv"}
"""Endings of the forms' files."""

_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def written(value: Value, form: str) -> str:
    """A figure as people read it; nothing for what is not known."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if form == "seconds":
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return _FORMS.get(form, "{}").format(value)


def plain(value: float) -> str:
    """A number as people write it: 0.001, 20, 1,500, 1e-5."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        digits, _, exponent = f"{value:.3g}".partition("e")
        return f"{digits}e{int(exponent)}" if exponent else digits
    return f"{value:,.6g}" if abs(value) >= 1000 else f"{value:.6g}"


def score_form(values: Iterable[float | None]) -> Form:
    """How a task's scores are written: shares as percentages, whatever else a task measures as it is."""
    return "percent" if all(0 <= (value or 0) <= 1 for value in values) else "figure"


def aligned(lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is easy to read as it stands: the first column to the left, figures to the right."""
    cells = [[" ".join(cell.replace("|", "\\|").split("\n")) for cell in line] for line in lines]
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def comma_separated(lines: Iterable[Sequence[Value]]) -> str:
    """CSV (RFC 4180). A text that a spreadsheet would take for a formula is led by an apostrophe."""
    target = io.StringIO()
    writer = csv.writer(target)
    for line in lines:
        writer.writerow([_harmless(cell) for cell in line])
    return target.getvalue()


def write_forms(told: Callable[[TableForm], str], folder: Path) -> None:
    """Write a table in all its forms into a folder: `table.md`, `table.csv` and `table.json`."""
    for form, ending in ENDINGS.items():
        (folder / f"table.{ending}").write_text(told(form), encoding="utf-8", newline="")


def _harmless(cell: Value) -> Value:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_BEGINS_A_FORMULA) else cell
