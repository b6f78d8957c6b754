"""`dress jobs`, `show`, `events`, `cancel`, `pause`, `resume`, `retry`, `download`: of jobs and searches alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from api import display, search_display
from api.client import Client
from api.console import (
    INTERRUPTED,
    CodeOption,
    FaultOption,
    IdArgument,
    JsonOption,
    LimitOption,
    err,
    fail,
    out,
    print_json,
    server,
)
from api.failures import InConflict, Missing
from api.job_client import Jobs
from api.queued import PAGE
from api.schemas import FINAL_STATUSES, Job
from api.search_client import Searches
from api.searches import QueuedSearch

SEARCH = "search_"
"""How the ids of searches begin."""


def listing(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = None,
    fault: FaultOption = None,
    code: CodeOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with server() as client:
        found = client.jobs.list(status=status, label=label, fault=fault, code=code, limit=limit)
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


def retry(
    owner_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The id of a job or a search.")] = None,
    dead: Annotated[
        bool, typer.Option("--dead", help="All jobs and searches that failed, as `dress queue` shows.")
    ] = False,
    fault: FaultOption = None,
    code: CodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a job or a search again that failed or was cancelled. It finds what it had finished."""
    if dead == (owner_id is not None):
        fail("name the job or search to retry, or --dead for all that failed", status=2)
    if not dead and (fault or code):
        fail("--fault and --code choose among the dead; add --dead, or leave them out", status=2)
    with server() as client:
        if owner_id is not None:
            _tell(_kind(client, owner_id).retry(owner_id), as_json)
            return
        tried, refused = [], 0
        for dead_id in _dead(client, fault, code):
            try:
                tried.append(_kind(client, dead_id).retry(dead_id))
            except (InConflict, Missing) as refusal:  # the others are tried all the same
                refused += 1
                err().print(f"{dead_id}: {escape(str(refusal))}", highlight=False)
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": [each.model_dump(mode="json") for each in tried]}))
    else:
        for each in tried:
            _tell(each, as_json=False)
        told = f", {refused} refused" if refused else ""
        err().print(f"{len(tried)} queued again{told}", highlight=False)
    if refused:
        raise typer.Exit(1)


def _dead(client: Client, fault: str | None, code: str | None) -> list[str]:
    """The ids of all that failed, known before the first is tried again."""
    ids: list[str] = []
    for kind in (client.jobs, client.searches):
        page, has_more = None, True
        while has_more:
            listed = kind.list(status="failed", fault=fault, code=code, after=page, limit=PAGE)
            ids += [each.id for each in listed.data]
            page, has_more = (ids[-1] if listed.data else page), listed.has_more
    return ids


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
