"""`dress search`: submit a search, follow it, look at its trials, and make the best one a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from api.commands import jobs
from api.console import (
    JsonOption,
    LabelsOption,
    LimitOption,
    PriorityOption,
    WaitOption,
    err,
    fail,
    labels_of,
    out,
    print_json,
    server,
)
from api.following import follow_search, told_job
from api.recipes import BadFile, read_file, search_with_absolute_paths
from api.saving import SaveOption, saved
from api.search_display import search_table, searches_table, show_search, show_status, show_trials
from workers.contracts.search import is_search
from workers.contracts.study import is_study
from workers.searching.table import SearchTable

app = typer.Typer(
    help="Search for the best way to prune: submit, follow, look at trials, make one a job.", no_args_is_help=True
)
app.command("pause")(jobs.pause)
app.command("resume")(jobs.resume)
app.command("retry")(jobs.retry)
app.command("download")(jobs.download)

SearchArgument = Annotated[str, typer.Argument(metavar="ID", help="The search's id.")]


@app.command()
def submit(
    search: Annotated[Path, typer.Argument(help="A search in YAML; `-` reads it from stdin.")],
    wait: WaitOption = False,
    as_json: JsonOption = False,
    label: LabelsOption = None,
    priority: PriorityOption = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change a field of the search, such as trials, or of its base."
        ),
    ] = None,
) -> None:
    """Submit a search. With --wait show its trials as they come, and end with their table."""
    labels = labels_of(label)
    try:
        wanted = read_file(search, settings or ())
    except BadFile as error:
        fail(str(error))
    if not is_search(wanted):
        kind = "study" if is_study(wanted) else "recipe"
        fail(f"{search} holds no search, for it has no `space`; submit a {kind} with `dress submit {search}`")
    with server() as client:
        made = client.searches.submit(search_with_absolute_paths(wanted), labels=labels, priority=priority)
        if not wait:
            print_json(made) if as_json else typer.echo(made.id)
            return
        err().print(f"search {made.id}", highlight=False)
        made = follow_search(client, made)
        table = search_table(made, client.searches.trials(made.id))
    if as_json:
        print_json(made)
    console = err() if as_json else out()
    show_trials(console, table)
    show_status(console, made)
    raise typer.Exit(0 if made.status == "succeeded" else 1)


@app.command("list")
def listing(
    status: Annotated[str | None, typer.Option(help="Only searches in this status.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="Only searches with this label.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List searches, newest first."""
    with server() as client:
        found = client.searches.list(status=status, label=label, limit=limit)
    print_json(found) if as_json else out().print(searches_table(found.data))


@app.command()
def show(search_id: SearchArgument, as_json: JsonOption = False, save: SaveOption = None) -> None:
    """Show where a search stands: trials, the best, the frontier, work spent and avoided, the time left."""
    with server() as client:
        found = client.searches.get(search_id)
        if save is not None:
            table = search_table(found, client.searches.trials(search_id))
            files = saved(save, table.told, lambda folder: _drawn(table, folder))
            err().print(f"written: {', '.join(files)}", highlight=False, markup=False)
    print_json(found) if as_json else show_search(out(), found)


def _drawn(table: SearchTable, folder: Path) -> list[Path]:
    from workers.figures.search import write_search_figures  # loads matplotlib

    return write_search_figures(table.search, table.rows, folder)


@app.command()
def trials(
    search_id: SearchArgument,
    as_json: JsonOption = False,
    form: Annotated[
        Literal["table", "csv", "markdown"], typer.Option("--format", help="How they are told on stdout.")
    ] = "table",
) -> None:
    """Show a search's trials side by side, best first."""
    with server() as client:
        found = list(client.searches.trials(search_id))
        if as_json:
            data = [trial.model_dump(mode="json") for trial in found]
            typer.echo(json.dumps({"object": "list", "data": data}))
            return
        table = search_table(client.searches.get(search_id), found)
    if form == "table":
        show_trials(out(), table)
    else:
        typer.echo(table.told(form).rstrip("\n"))


@app.command()
def stop(search_id: SearchArgument, as_json: JsonOption = False) -> None:
    """End a search now. What it has found stays; trials under way are given up."""
    with server() as client:
        stopped = client.searches.stop(search_id)
    print_json(stopped) if as_json else typer.echo(f"{stopped.id} {stopped.status}")


@app.command()
def promote(
    search_id: SearchArgument,
    trial: Annotated[int, typer.Argument(min=1, metavar="TRIAL", help="The trial's number.")],
    wait: WaitOption = False,
    as_json: JsonOption = False,
    label: LabelsOption = None,
    priority: PriorityOption = 0,
) -> None:
    """Queue a trial's recipe as a job, which leaves its files. It finds what the trial computed."""
    labels = labels_of(label)
    with server() as client:
        job = client.searches.promote(search_id, trial, labels=labels, priority=priority)
        told_job(client, job, wait=wait, as_json=as_json)
