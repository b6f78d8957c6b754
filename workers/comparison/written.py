"""Tables as text: Markdown that reads well as it stands, and CSV for programs. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


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


def comma_separated(lines: Iterable[Sequence[str | int | float | None]]) -> str:
    """CSV (RFC 4180). A text that a spreadsheet would take for a formula is led by an apostrophe."""
    target = io.StringIO()
    writer = csv.writer(target)
    for line in lines:
        writer.writerow([_harmless(cell) for cell in line])
    return target.getvalue()


def _harmless(cell: str | int | float | None) -> str | int | float | None:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_BEGINS_A_FORMULA) else cell
