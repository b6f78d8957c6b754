"""`dress queue`: what runs, what waits and why, what goes on when, and what is dead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.console import CodeOption, FaultOption, JsonOption, LimitOption, out, print_json, server
from api.display import coloured
from api.queue_overview import QueueEntry, QueueOverview

_TURN = "its turn has not come"


def show(
    fault: FaultOption = None,
    code: CodeOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Show the queue: counts, what runs, what waits and why, what goes on when, and what is dead and of what.

    --fault and --code choose among the dead; `dress retry --dead` takes the same.
    """
    with server() as client:
        found = client.queue.get(limit=limit, fault=fault, code=code)
    print_json(found) if as_json else show_queue(out(), found)


def show_queue(console: Console, queue: QueueOverview) -> None:
    """The queue for people; what is empty is left out."""
    counts = "   ".join(f"{coloured(status)} {count}" for status, count in queue.counts.items() if count)
    console.print(counts or "nothing is queued", highlight=False)
    for title, entries, last, told in (
        ("Running", queue.running, "STAGE AT LATEST UNTIL", _deadline),
        ("Waiting, in this order", queue.waiting, "WHY", lambda entry: entry.reason or _TURN),
        ("Backing off", queue.backing_off, "NEXT ATTEMPT, AND WHY", _again),
        ("Dead", queue.dead, "WHY", _death),
    ):
        if entries:
            console.print(_table(title, entries, last, told))
    for each in queue.errors:
        console.print(f"{each.count} died of {escape(each.code)} ({each.fault or 'unknown'})", highlight=False)


def _table(title: str, entries: Iterable[QueueEntry], last: str, told: Callable[[QueueEntry], str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("ID", "STATUS", "STAGE", "PRIORITY", "ATTEMPTS"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("PRIORITY", "ATTEMPTS") else "left")
    table.add_column(last)
    for each in entries:
        numbers = (str(each.priority), str(each.attempts))
        table.add_row(each.id, coloured(each.status), each.stage or "", *numbers, escape(told(each)))
    return table


def _deadline(entry: QueueEntry) -> str:
    return _time(entry.stage_deadline_at) if entry.stage_deadline_at else "no deadline"


def _again(entry: QueueEntry) -> str:
    return f"{_time(entry.next_attempt_at)}  {entry.reason or ''}".rstrip()


def _death(entry: QueueEntry) -> str:
    if entry.error is None:
        return ""
    return f"{_time(entry.finished_at)}  {entry.error.code}: {entry.error.message}"


def _time(at: datetime | None) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""
