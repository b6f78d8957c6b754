"""`dress compare`: jobs side by side, on the console or into files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from api.console import err, fail, out, server
from api.saving import SaveOption, saved
from workers.comparison.comparison import Comparison, fault_lines

MOST_BESIDE = 6
"""Jobs that stand beside each other, a column each; more stand below each other."""


def compare(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Jobs, in the order of the table.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="All jobs with this label; study=NAME for a study. May be repeated."),
    ] = None,
    form: Annotated[
        Literal["table", "markdown", "csv", "json"], typer.Option("--format", help="How it is told on stdout.")
    ] = "table",
    save: SaveOption = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Order the rows by it, such as parameters; -COLUMN: greatest first."),
    ] = None,
) -> None:
    """Show jobs side by side: quality, true parameters, speed and cost, and which figures do not compare."""
    if not ids and not label:
        fail("name the jobs to compare, or --label KEY=VALUE", status=2)
    with server() as client:
        made = client.compare(*(ids or []), labels=label or (), sort=sort)
        if not made.rows:
            fail(f"no job has the label {' or '.join(label or [])}")
        if save is not None:
            files = saved(save, made.told, lambda folder: _drawn(made, folder))
            err().print(f"written: {', '.join(files)}", highlight=False, markup=False)
    if form == "table":
        _show(made)
    else:
        typer.echo(made.told(form).rstrip("\n"))


def _drawn(made: Comparison, folder: Path) -> list[Path]:
    from workers.comparison.drawing import write_figures  # loads matplotlib

    return write_figures(made.rows, folder)


def _show(made: Comparison) -> None:
    console = out()
    console.print(_table(made))
    for line in (*made.remarks(), *fault_lines(made.rows)):
        console.print(escape(line), highlight=False)


def _table(made: Comparison) -> Table:
    """Few jobs beside each other, many below each other."""
    lines = made.lines()
    if len(made.rows) <= MOST_BESIDE:
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(title=escape(made.title), title_justify="left")
    for place, title in enumerate(lines[0]):
        table.add_column(escape(title) if place else "", justify="right" if place else "left")
    for line in lines[1:]:
        table.add_row(*map(escape, line))
    return table
