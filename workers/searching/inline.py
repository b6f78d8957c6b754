"""Runs a search in this process, one trial after the other: without Ray, for tests and for `dress run`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from workers.actor import Order
from workers.contracts.events import Event
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord
from workers.searching.course import Course, Trial


def run(order: Order, workspace: Path) -> Iterator[Event]:
    """See `workers.actor.Engine`. Concurrency is taken as one, whatever the order says."""
    assert order.search is not None  # noqa: S101  the shell calls an engine for nothing else
    search = Search.model_validate(order.search.spec).model_copy(update={"concurrency": 1})
    told: list[Event] = []
    course = Course(search, SearchRecord.model_validate(order.search.record), told.append)

    def news() -> Iterator[Event]:
        while told:
            yield told.pop(0)

    while (trial := course.next_trial()) is not None:
        yield from news()
        for event in _pipeline(order, trial, course.rungs, workspace / f"trial-{trial.number}"):
            decision = course.heard(trial.number, [event])
            yield from news()
            if decision == "stop":
                break
    yield from news()
    yield course.last_word()


def _pipeline(order: Order, trial: Trial, rungs: tuple[float, ...], folder: Path) -> Iterator[Event]:
    module, _, function = order.pipeline.partition(":")
    run_recipe = getattr(importlib.import_module(module), function)
    folder.mkdir(parents=True)
    recipe = Recipe.model_validate(trial.recipe.model_dump(mode="json"))
    extra = {"rungs": rungs} if rungs else {}
    owner = f"{order.owner}:{trial.number}"
    yield from run_recipe(recipe, order.store, folder, Places.model_validate(order.places), owner, **extra)
