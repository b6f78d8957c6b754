"""Searches and their runs for tests: what is committed, what is lost, and what a later attempt makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.actor import Order, SearchOrder
from workers.contracts.events import Event
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord, TrialFinished, TrialProposed, TrialReported
from workers.local_store import LocalStore
from workers.searching import inline
from workers.searching.record import recorded

BASE: dict[str, Any] = {
    "model": {"source": "some/model"},
    "method": {"kind": "dress", "preset": "paper", "ratio": 0.25},
}


def search(**changes: Any) -> Search:
    """A small search over λ, changed."""
    plain: dict[str, Any] = {
        "base": BASE,
        "space": {"method.strength": "loguniform(1e-5, 1e-1)"},
        "objective": "perplexity.wikitext2 min",
        "trials": 8,
    }
    return Search.model_validate(plain | changes)


def order(wanted: Search, record: SearchRecord, folder: Path) -> Order:
    """For the inline engine on the paced pipeline."""
    return Order(
        attempt_id="att_1",
        owner="search_1",
        recipe=wanted.base,
        places={},
        store=LocalStore(folder / "store"),
        pipeline="tests.workers.searching.paced_pipeline:run",
        search=SearchOrder(wanted.model_dump(mode="json"), record.model_dump(mode="json"), wanted.concurrency),
    )


def told(wanted: Search, folder: Path, record: SearchRecord | None = None, most: int | None = None) -> list[Event]:
    """What one attempt tells; at most so many events, as if it were killed then."""
    folder = folder / f"attempt-{sum(1 for _ in folder.glob('attempt-*'))}"
    folder.mkdir(parents=True)
    events = inline.run(order(wanted, record or SearchRecord(), folder), folder)
    return list(itertools.islice(events, most))


def run_through(wanted: Search, folder: Path, kills: Sequence[int] = ()) -> tuple[SearchRecord, list[Event]]:
    """The record after attempts that are killed after so many events each, and one that is not; with all events."""
    record, all_events = SearchRecord(), []
    for most in (*kills, None):
        events = told(wanted, folder, record, most)
        record = recorded(record, events)
        all_events += events
    return record, all_events


def facts(record: SearchRecord) -> list[Any]:
    """All of a record but times: what must not depend on what happened on the way."""
    return [
        (
            trial.trial,
            trial.point,
            [(report.rung, report.value, report.decision) for report in trial.reports],
            trial.finished and (trial.finished.status, trial.finished.values, trial.finished.excesses),
            trial.ended_as,
        )
        for trial in record.trials
    ]


def decisions(events: Sequence[Event]) -> list[Any]:
    """Every proposal, rung decision and end that was told, in order."""
    kept: list[Any] = []
    for event in events:
        if isinstance(event, TrialProposed):
            kept.append(("proposed", event.trial))
        elif isinstance(event, TrialReported):
            kept.append(("reported", event.trial, event.rung))
        elif isinstance(event, TrialFinished):
            kept.append(("finished", event.trial))
    return kept
