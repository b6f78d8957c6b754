"""A search on Ray Tune: a `tune.Tuner` in the search's actor, whose trials run the same pipeline as any job.

Tune places the trials, keeps their workers warm and starts anew what dies; what is tried, what ends early and what is
best is the course's to say. Nothing that Tune remembers is needed after a crash.
"""

from __future__ import annotations

import gc
import logging
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from workers.actor import Order, Shell
from workers.contracts.events import EVENT, Event, Failed
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord
from workers.errors import Transient
from workers.searching.course import PROGRESS_SECONDS, Course, Trial

logger = logging.getLogger(__name__)

_LETTING_GO_SECONDS = 60.0
"""A stopped pipeline ends before its next event; a worker that takes longer is replaced."""


def run(order: Order, workspace: Path) -> Iterator[Event]:
    """See `workers.actor.Engine`."""
    assert order.search is not None  # noqa: S101  the shell calls an engine for nothing else
    search = Search.model_validate(order.search.spec)
    search = search.model_copy(update={"concurrency": order.search.concurrency})
    told: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
    record = SearchRecord.model_validate(order.search.record)
    course = Course(search, record, told.put, stage_seconds=order.stage_seconds)

    def fit() -> None:
        try:
            _tuner(course, order, workspace).fit()
            told.put(None)
        except BaseException as error:
            told.put(error)

    threading.Thread(target=fit, name="tune", daemon=True).start()
    while (event := told.get()) is not None:
        if isinstance(event, BaseException):
            raise event
        yield event
    if course.has_more:
        raise Transient("Ray Tune ended before the search did")
    yield course.last_word()


def _tuner(course: Course, order: Order, workspace: Path) -> tune.Tuner:
    resources = order.recipe.get("resources", {})
    faults: dict[int, str] = {}
    amounts = {"cpu": resources.get("cpus", 1), "gpu": resources.get("gpus", 0)}
    shared = replace(order, search=None, recipe={}, rungs=course.rungs)
    worker = tune.with_resources(tune.with_parameters(TrialWorker, order=shared), amounts)
    return tune.Tuner(
        worker,
        param_space={},
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the course says when it is over
            search_alg=_Proposals(course, faults),
            scheduler=_Decisions(course, faults),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(workspace),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the pipeline keeps its own
            # Tune begins anew only what dies in mid-run, not what dies while it starts; the course does both alike.
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )


class TrialWorker(tune.Trainable):
    """A process of Tune's that runs one trial's pipeline, and then the next one's."""

    def setup(self, config: dict[str, Any], order: Order) -> None:
        """Nothing runs before the first step: Tune may start a worker for a trial and then give it to another."""
        self._order, self._config = order, config
        self._shell: Shell | None = None

    def step(self) -> dict[str, Any]:
        """What the pipeline reported since the last step, after a few seconds at most.

        Raises:
            Transient: a passing fault; the trial is begun again while it has tries left.
        """
        shell = self._shell = self._shell or self._begun()
        answer = shell.events(self._after, PROGRESS_SECONDS)
        events = [item["event"] for item in answer["events"]]
        self._after += len(events)
        last = EVENT.validate_python(events[-1]) if events else None
        if isinstance(last, Failed) and last.fault == "transient":
            raise Transient(last.message)
        return {"events": events}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Make way for another trial; False, which has the worker replaced, if the one before does not let go."""
        self._config = new_config
        return self._let_go()

    def cleanup(self) -> None:
        """End the trial."""
        self._let_go()

    def _begun(self) -> Shell:
        number = self._config["trial"]
        order = replace(
            self._order,
            attempt_id=f"{self._order.attempt_id}-{number}",
            owner=f"{self._order.owner}:{number}",  # so that a later attempt at the trial need not wait for the claim
            recipe=self._config["recipe"],
        )
        self._after = 0
        shell = Shell(order)
        shell.start()
        return shell

    def _let_go(self) -> bool:
        shell, self._shell = self._shell, None
        if shell is None:
            return True
        shell.stop()
        ended = shell.wait(_LETTING_GO_SECONDS)
        del shell
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next trial may be of another size
        return ended


class _Proposals(Searcher):
    """Hands Tune the course's trials."""

    def __init__(self, course: Course, faults: dict[int, str]) -> None:
        super().__init__()
        self._course, self._faults = course, faults
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial as a config; None while none may begin."""
        trial: Trial | None = self._course.next_trial()
        if trial is None:  # one under way may be lost yet, and must then be begun again
            return None if self._course.has_more or not self._course.is_idle else Searcher.FINISHED
        self._numbers[trial_id] = trial.number
        return {"trial": trial.number, "recipe": trial.recipe.model_dump(mode="json")}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Of a trial that ended well, the course has heard itself."""
        if error and trial_id in self._numbers:
            number = self._numbers[trial_id]
            self._course.lost(number, self._faults.get(number, "its worker was lost"))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the record is what lasts."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it to be restored from, which nobody does


class _Decisions(FIFOScheduler):
    """Hands the course what trials report, and Tune what the course makes of it."""

    def __init__(self, course: Course, faults: dict[int, str]) -> None:
        super().__init__()
        self._course, self._faults = course, faults

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        events = [EVENT.validate_python(plain) for plain in result.get("events", [])]
        decision = self._course.heard(trial.config["trial"], events)
        return TrialScheduler.STOP if decision == "stop" else TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Remember why; the proposals are told next."""
        number = trial.config["trial"]
        self._faults[number] = _last_line(str(trial.get_error()))
        logger.warning("trial %s: %s", number, self._faults[number])


def _last_line(text: str) -> str:
    """What an exception says, without the trace that Ray puts before it."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "its worker was lost")[-500:]
