"""A search's record, made of what its engine told: what a later attempt goes on from."""

from __future__ import annotations

from collections.abc import Iterable

from workers.contracts.events import Event
from workers.contracts.trials import (
    SearchRecord,
    TrialFinished,
    TrialProgressed,
    TrialProposed,
    TrialRecord,
    TrialReported,
)


def recorded(record: SearchRecord, events: Iterable[Event]) -> SearchRecord:
    """The record after these events. What is told twice counts once; events of other kinds change nothing."""
    trials = {trial.trial: trial for trial in record.trials}
    ended = sum(1 for trial in record.trials if trial.finished is not None)
    for event in events:
        match event:
            case TrialProposed():
                trials.setdefault(event.trial, TrialRecord(trial=event.trial, point=event.point))
            case TrialReported() if all(each.rung != event.rung for each in trials[event.trial].reports):
                reports = [*trials[event.trial].reports, event]
                trials[event.trial] = trials[event.trial].model_copy(update={"reports": reports})
            case TrialProgressed():
                spent = {"seconds": event.seconds, "gpu_seconds": event.gpu_seconds}
                trials[event.trial] = trials[event.trial].model_copy(update=spent)
            case TrialFinished() if trials[event.trial].finished is None:
                ended += 1
                update = {"finished": event, "ended_as": ended}
                trials[event.trial] = trials[event.trial].model_copy(update=update)
    return SearchRecord(trials=[trials[number] for number in sorted(trials)], wall_seconds=record.wall_seconds)
