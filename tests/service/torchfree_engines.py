"""Engines that report as the real one does, without trials to run. Tests steer them through files, as pipelines."""

import threading
from collections.abc import Iterator
from pathlib import Path

from workers.actor import Order, SearchOrder
from workers.contracts.events import Event, Failed, Notice, Succeeded
from workers.contracts.results import Measurement, Results, StoredFile
from workers.contracts.search import Search
from workers.contracts.trials import (
    SearchRecord,
    TrialFinished,
    TrialProgressed,
    TrialProposed,
    TrialReported,
)


def paced(order: Order, workspace: Path) -> Iterator[Event]:
    """Trials one by one, each better than the last; all but the first wait for the file `go` beside the text."""
    search, record = _told(order)
    folder = Path(order.recipe["data"]["path"]).parent
    ended = sum(trial.finished is not None for trial in record.trials)
    yield Notice(message=f"{ended} of {len(record.trials)} ended, {_of(order).concurrency} at once")
    known = {trial.trial: trial for trial in record.trials}
    for number in range(1, search.trials_at_most + 1):
        if number in known and known[number].finished:
            continue
        if number not in known:
            yield TrialProposed(trial=number, point={"method.strength": 10.0**-number})
        yield TrialProgressed(trial=number, stage="regularize", step=1, steps=2, fraction=0.25, seconds=0.5)
        if number not in known or not known[number].reports:
            yield TrialReported(trial=number, rung=0, value=1.0 / number, decision="go_on")
        while number > 1 and not (folder / "go").exists():
            threading.Event().wait(0.02)
            yield TrialProgressed(trial=number, stage="regularize", step=2, steps=2, fraction=0.5, seconds=1.0)
        file = workspace / "config.json"
        file.write_text(f'{{"trial": {number}}}', "utf-8")
        yield finished(number, 10 - number, files=[order.store.put(file, "model/config.json")])
    yield Succeeded(results=Results())


def hopeless(order: Order, workspace: Path) -> Iterator[Event]:
    """One trial fails, another is begun, and the search gives up."""
    yield TrialProposed(trial=1, point={"method.strength": 0.1})
    yield TrialProposed(trial=2, point={"method.strength": 0.01})
    yield TrialFinished(trial=1, status="failed", code="diverged", message="the loss is no number")
    yield Failed(fault="recipe", code="too_many_failed", message="1 of 1 trials failed")


def environment(order: Order, workspace: Path) -> Iterator[Event]:
    """Reports what its process sees."""
    import os

    for name in ("OMP_NUM_THREADS", "TUNE_DISABLE_SIGINT_HANDLER", "CUDA_VISIBLE_DEVICES"):
        yield Notice(message=f"{name} {os.environ.get(name)!r}")
    import ray

    yield Notice(message=f"resources {sorted(ray.get_runtime_context().get_assigned_resources())}")
    yield Succeeded(results=Results())


def finished(number: int, parameters: int, files: list[StoredFile] | None = None) -> TrialFinished:
    """The end of a trial whose objective is the number of parameters."""
    return TrialFinished(
        trial=number,
        status="succeeded",
        values=[float(parameters)],
        excesses=[],
        results=Results(pruned=Measurement(parameters=parameters)),
        files=files or [],
        seconds=2.0,
        gpu_seconds=1.0,
        avoided_seconds=3.0,
        avoided_by_stage={"basis": 1.0, "evaluate dense": 2.0},
    )


def _told(order: Order) -> tuple[Search, SearchRecord]:
    of = _of(order)
    return Search.model_validate(of.spec), SearchRecord.model_validate(of.record)


def _of(order: Order) -> SearchOrder:
    assert order.search is not None
    return order.search
