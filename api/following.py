"""Shows what a job or a search does, until its end. Ctrl-C stops showing it and leaves it alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from api import display
from api.client import Client
from api.console import INTERRUPTED, err, out, print_json
from api.schemas import Job
from api.search_display import SearchProgress
from api.searches import QueuedSearch


def follow_job(client: Client, job: Job) -> Job:
    """The job once it is final."""
    with _leaving(job, f"dress cancel {job.id}"), display.JobProgress(err()) as progress:
        for event in client.jobs.events(job.id, follow=True):
            progress.tell(event)
    return client.jobs.get(job.id)


def told_job(client: Client, job: Job, *, wait: bool, as_json: bool) -> None:
    """Tell of a job that was queued just now: its id, or, if it is waited for, what it does and what came of it.

    Raises:
        typer.Exit: with 0 if it was waited for and succeeded, with 1 if it did not.
    """
    if not wait:
        print_json(job) if as_json else typer.echo(job.id)
        return
    err().print(f"job {job.id}", highlight=False)
    job = follow_job(client, job)
    if as_json:
        print_json(job)
    display.show_job(err() if as_json else out(), job)
    raise typer.Exit(0 if job.status == "succeeded" else 1)


def follow_search(client: Client, search: QueuedSearch) -> QueuedSearch:
    """The search once it is final."""
    with _leaving(search, f"dress search stop {search.id}"), SearchProgress(err(), search) as progress:
        for event in client.searches.events(search.id, follow=True):
            progress.tell(event)
            if progress.wants_a_look:
                progress.look(client.searches.get(search.id))
        search = client.searches.get(search.id)
        progress.look(search)
    return search


@contextmanager
def _leaving(followed: Job | QueuedSearch, ending: str) -> Iterator[None]:
    """Let Ctrl-C end the command, and say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        err().print(
            f"The {followed.object} goes on. Follow it: dress events {followed.id} -f   End it: {ending}",
            highlight=False,
        )
        raise typer.Exit(INTERRUPTED) from None
