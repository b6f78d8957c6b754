"""`dress jobs`, `show`, `events`, `cancel`, `pause`, `resume`, `retry`, `download`: of jobs and searches alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from api import display, search_display
from api.client import Client
from api.console import INTERRUPTED, IdArgument, JsonOption, LimitOption, err, fail, out, print_json, server
from api.job_client import Jobs
from api.schemas import FINAL_STATUSES, Job
from api.search_client import Searches
from api.searches import QueuedSearch

SEARCH = "search_"
"""How the ids of searches begin."""


def listing(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with server() as client:
        found = client.jobs.list(status=status, label=label, limit=limit)
    print_json(found) if as_json else out().print(display.jobs_table(found.data))


def show(owner_id: IdArgument, as_json: JsonOption = False) -> None:
    """Show a job or a search: status, error, results."""
    with server() as client:
        found = _kind(client, owner_id).get(owner_id)
    if as_json:
        print_json(found)
    elif isinstance(found, Job):
        display.show_job(out(), found)
    else:
        search_display.show_search(out(), found)


def events(
    owner_id: IdArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it is final.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater number.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A list on stdout; with -f one object a line.")] = False,
) -> None:
    """Show what happened to a job or a search."""
    with server() as client:
        told = _kind(client, owner_id).events(owner_id, after=after, follow=follow)
        if as_json and not follow:
            typer.echo(json.dumps({"object": "list", "data": [event.model_dump(mode="json") for event in told]}))
            return
        try:
            for event in told:
                if as_json:
                    print_json(event)
                else:
                    out().print(display.event_line(event), highlight=False)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def cancel(owner_id: IdArgument, as_json: JsonOption = False) -> None:
    """Cancel a job, waiting or running; a search is stopped, and keeps what it has found."""
    with server() as client:
        kind = _kind(client, owner_id)
        _tell(kind.stop(owner_id) if isinstance(kind, Searches) else kind.cancel(owner_id), as_json)


def pause(owner_id: IdArgument, as_json: JsonOption = False) -> None:
    """Pause a job or a search: it frees what it occupies, and goes on from its checkpoints once resumed."""
    with server() as client:
        _tell(_kind(client, owner_id).pause(owner_id), as_json)


def resume(owner_id: IdArgument, as_json: JsonOption = False) -> None:
    """Queue a job or a search again that was paused."""
    with server() as client:
        _tell(_kind(client, owner_id).resume(owner_id), as_json)


def retry(owner_id: IdArgument, as_json: JsonOption = False) -> None:
    """Queue a job or a search again that failed or was cancelled. It finds what it had finished."""
    with server() as client:
        _tell(_kind(client, owner_id).retry(owner_id), as_json)


def download(
    owner_id: IdArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put the files; made if missing.")],
) -> None:
    """Download what a job or a search left. Goes on where an earlier download stopped, and verifies every digest."""
    with server() as client:
        status = _kind(client, owner_id).get(owner_id).status
        files = _kind(client, owner_id).download(owner_id, folder)
    if not files:
        fail(f"{owner_id} is {status}: it has left no files{'' if status in FINAL_STATUSES else ' yet'}")
    err().print(f"{len(files)} files in {escape(str(folder))}", highlight=False)


def _kind(client: Client, owner_id: str) -> Jobs | Searches:
    """Where a thing of this id is found."""
    return client.searches if owner_id.startswith(SEARCH) else client.jobs


def _tell(changed: Job | QueuedSearch, as_json: bool) -> None:
    print_json(changed) if as_json else typer.echo(f"{changed.id} {changed.status}")
