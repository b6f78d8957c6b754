"""A search run in this process, into a folder: its trials one after the other, without a service and without Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from workers.actor import Order, SearchOrder
from workers.contracts.events import EVENT, Event, Failed
from workers.contracts.places import Places
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord, TrialFinished, TrialProgressed, TrialProposed, TrialReported
from workers.figures.search import write_search_figures
from workers.local_run import Tell, place_files
from workers.local_store import LocalStore
from workers.searching import inline
from workers.searching.record import recorded
from workers.searching.table import SearchTable, rows_of

JOURNAL = ".trials.jsonl"
"""Every event of the search, one a line, in the folder of its results: what it goes on from."""


def run_search(search: Search, out: Path, *, tell: Tell) -> tuple[SearchTable, Failed | None]:
    """Run a search to its end, or from where an earlier run of it was killed, and write its table after each trial.

    The files of the trials that `keep` names are put into `out/trial-NUMBER/`.

    Raises:
        ValueError: the folder holds the journal of another search.
    """
    out.mkdir(parents=True, exist_ok=True)
    store = LocalStore(out / ".store")
    record = _read(out / JOURNAL, search)
    failure = None
    with (
        (out / JOURNAL).open("a", encoding="utf-8") as journal,
        tempfile.TemporaryDirectory(prefix="dress-", dir=_drafts(store)) as workspace,
    ):
        for event in inline.run(_order(search, record, store), Path(workspace)):
            journal.write(event.model_dump_json() + "\n")
            journal.flush()
            if not isinstance(event, TrialProgressed):
                os.fsync(journal.fileno())
            record = recorded(record, [event])
            for line in _lines(event):
                tell(line)
            if isinstance(event, TrialFinished):
                _table(search, record).write(out)
            elif isinstance(event, Failed):
                failure = event
    table = _table(search, record)
    table.write(out)
    shutil.rmtree(out / "figures", ignore_errors=True)
    (out / "figures").mkdir()
    write_search_figures(search, table.rows, out / "figures")
    for trial in _kept(search, table):
        finished = next(each.finished for each in record.trials if each.trial == trial)
        place_files(finished.files if finished else [], store, out / f"trial-{trial}")
    return table, failure


def _order(search: Search, record: SearchRecord, store: LocalStore) -> Order:
    asked = SearchOrder(search.model_dump(mode="json"), record.model_dump(mode="json"), concurrency=1)
    places = Places.from_environment().model_dump(mode="json")
    return Order(attempt_id="dress-run", owner="dress run", recipe={}, places=places, store=store, search=asked)


def _read(journal: Path, search: Search) -> SearchRecord:
    """What an earlier run left; a last line that was cut short is dropped from the file."""
    if not journal.exists():
        return SearchRecord()
    events: list[Event] = []
    whole = 0
    with journal.open("rb") as lines:
        for line in lines:
            try:
                events.append(EVENT.validate_json(line))
            except ValidationError:
                break
            whole += len(line)
    os.truncate(journal, whole)
    if any(isinstance(event, TrialProposed) and not set(event.point) <= set(search.space) for event in events):
        raise ValueError(f"{journal.parent} holds the trials of another search; name another --out")
    return recorded(SearchRecord(), events)


def _table(search: Search, record: SearchRecord) -> SearchTable:
    return SearchTable(search.title, search, rows_of(search, record))


def _kept(search: Search, table: SearchTable) -> Iterable[int]:
    """The trials whose files are wanted; without a frontier's sense of it, one."""
    if search.keep == "all":
        return [row.trial for row in table.rows if row.status == "succeeded"]
    best = [] if table.best is None else [table.best]
    return {"best": best, "frontier": table.frontier, "none": []}[search.keep]


def _drafts(store: LocalStore) -> Path:
    store.sweep()
    drafts = store.root / "drafts"
    drafts.mkdir(parents=True, exist_ok=True)
    return drafts


def _lines(event: Event) -> list[str]:
    match event:
        case TrialProposed():
            point = ", ".join(f"{field} {value}" for field, value in event.point.items())
            return [f"== trial {event.trial}: {point}"]
        case TrialProgressed():
            figures = "  ".join(f"{name} {value:.4g}" for name, value in event.metrics.items() if value is not None)
            return [f"    {event.fraction:4.0%}  {event.stage} {event.step}/{event.steps}  {figures}"]
        case TrialReported():
            return [f"    rung {event.rung}: {event.value}, {event.decision.replace('_', ' ')}"]
        case TrialFinished():
            values = ", ".join(f"{value:.5g}" for value in event.values or [] if value is not None)
            return [f"    {event.status} {values} {event.message or ''}".rstrip()]
        case Failed():
            return [f"failed ({event.code}): {event.message}"]
    return []
