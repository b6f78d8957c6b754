"""`dress datasets`: texts of one's own, uploaded for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from api.console import JsonOption, err, out, server
from api.datasets import Dataset

app = typer.Typer(help="Upload, list and delete data sets: texts of your own, named in recipes by their ids.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The data set's id.")]


@app.callback(invoke_without_command=True)
def listing(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="Only data sets of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Data sets at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List data sets, newest first; with a command, upload or delete them."""
    if context.invoked_subcommand is not None:
        return
    with server() as client:
        found = client.datasets.list(name=name, limit=limit)
    typer.echo(found.model_dump_json()) if as_json else out().print(_table(found.data))


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="A text in UTF-8.")],
    name: Annotated[str | None, typer.Option(help="What to call it; the file's own name if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a text and print the id that recipes name it by: `{name: text, dataset: ID}`."""
    with server() as client:
        made = client.datasets.upload(file, name=name)
    err().print(f"{made.name}: {made.size_bytes:,} bytes, sha256 {made.sha256}", highlight=False, markup=False)
    typer.echo(made.model_dump_json() if as_json else made.id)


@app.command("rm")
def remove(dataset_id: IdArgument) -> None:
    """Delete a data set. Refused while a job that refers to it has not ended."""
    with server() as client:
        client.datasets.delete(dataset_id)
    err().print(f"{dataset_id} is deleted", highlight=False, markup=False)


def _table(found: Iterable[Dataset]) -> Table:
    """One line a data set."""
    table = Table(box=None, pad_edge=False)
    for title in ("ID", "NAME", "BYTES", "SHA256", "CREATED"):
        table.add_column(title, no_wrap=title != "NAME", justify="right" if title == "BYTES" else "left")
    for each in found:
        created = each.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(each.id, escape(each.name), f"{each.size_bytes:,}", each.sha256[:12], created)
    return table
