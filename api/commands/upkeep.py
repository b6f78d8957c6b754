"""`dress retention` and `dress gc`: remove what the policy no longer keeps, and files that nothing refers to."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from api.console import JsonOption, err, out, print_json, server
from api.display import gib
from api.upkeep import RetentionReport

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed, and remove nothing.")]


def retention(dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Remove files of ended jobs and searches, and in the end these, as the deployment's policy says.

    DRESS_RETENTION_ARTIFACT_DAYS, DRESS_RETENTION_ROW_DAYS and DRESS_RETENTION_KEEP_LAST are the policy; a dispatcher
    applies it by itself. The label keep=true pins.
    """
    with server() as client:
        told = client.upkeep.run_retention(dry_run=dry_run)
    if as_json:
        print_json(told)
        return
    if told.data:
        out().print(_table(told))
    policy = told.policy
    if policy.artifact_days is None and policy.row_days is None:
        err().print("the policy keeps everything for ever: set DRESS_RETENTION_ARTIFACT_DAYS", highlight=False)
    verb = "would let go" if dry_run else "let go"
    err().print(f"{len(told.data)} jobs and searches {verb} of {gib(told.size_bytes)}", highlight=False)


def collect(dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Remove files of the artifact store that nothing refers to: first marked, then removed after a grace."""
    with server() as client:
        told = client.upkeep.collect_garbage(dry_run=dry_run)
    if as_json:
        print_json(told)
        return
    would = "would be " if dry_run else ""
    lines = (
        f"{len(told.removed)} files {would}removed ({gib(told.removed_bytes)}), "
        f"and {told.results_forgotten} stage results with them",
        f"{len(told.marked)} files {would}marked, for nothing refers to them ({gib(told.marked_bytes)})",
        f"{told.waiting} files marked before wait for the end of their grace",
    )
    for line in lines:
        out().print(line, highlight=False)


def _table(told: RetentionReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("ID", "REMOVES", "FILES", "SIZE", "ENDED"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("FILES", "SIZE") else "left")
    for each in told.data:
        ended = each.finished_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(each.id, each.removes, str(each.files), gib(each.size_bytes), ended)
    return table
