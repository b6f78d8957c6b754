"""The course of a search: which trial comes next, what each reports, which end early, and when it is over.

It knows no engine. Whatever runs the trials asks `next_trial`, hands over what each trial's pipeline reports, and obeys
the answers; every change is told as an event before it has an effect, so that the record, made of those events, leads a
later attempt to where this one was. What is decided depends on the search and on the record alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from workers.contracts.events import (
    ArtifactStored,
    Event,
    Failed,
    Progress,
    StageFinished,
    StageStarted,
    Succeeded,
)
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results, StoredFile
from workers.contracts.search import Search
from workers.contracts.trials import (
    Decision,
    SearchRecord,
    TrialFinished,
    TrialProgressed,
    TrialProposed,
    TrialRecord,
    TrialReported,
)
from workers.errors import RecipeError
from workers.searching import early_stopping, samplers

CUT_LOSS, TRAINING_FRACTION = "cut_loss", "training_fraction"
"""Figures of a progress event at a rung."""

PROGRESS_SECONDS = 2.0
"""A trial's progress is told so often at most."""

TRIES = 3
"""A trial whose worker dies, or that meets a passing fault, is begun so often."""

TOO_MANY_FAILED, STAGE_DEADLINE = "too_many_failed", "stage_deadline"
_LONGER = "if it only needs longer, set resources.stage_deadline_hours in the search's base"

_BUDGET_OVER = "the search's budget is used up"


_MARGIN_SECONDS = 5.0
"""Trials are stopped so long before the end of a budget, since they report only every few seconds."""


def _usable(seconds: float) -> float:
    return seconds - min(_MARGIN_SECONDS, 0.02 * seconds)


@dataclass
class Trial:
    """A trial under way."""

    number: int
    recipe: Recipe
    begun_at: float
    seconds_before: float = 0.0
    """Under way in earlier attempts of the search."""
    stages_done: int = 0
    stages: int = 1
    stage_fraction: float = 0.0
    stage_began_at: float = math.inf
    told_at: float = -math.inf
    computed: set[str] = field(default_factory=set)
    """Keys of the stages that it computed itself: found again after a crash, they were not avoided."""
    avoided: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds that stages cost which it found instead of computing them, by stage."""
    files: list[StoredFile] = field(default_factory=list)
    ended: bool = False

    def seconds(self, now: float) -> float:
        """Under way for so long, all tries together."""
        return self.seconds_before + now - self.begun_at

    def gpu_seconds(self, now: float) -> float:
        """Its time times its GPUs."""
        return self.seconds(now) * self.recipe.resources.gpus


class Course:
    """A search under way. Its methods may be called from any thread, one at a time."""

    def __init__(
        self,
        search: Search,
        record: SearchRecord,
        tell: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        stage_seconds: float | None = None,
    ) -> None:
        """`tell` gets every event, in order. A trial of which a stage takes longer than `stage_seconds` fails."""
        self.search = search
        self._tell, self._clock, self._stage_seconds = tell, clock, stage_seconds
        self._record = {trial.trial: trial for trial in record.trials}
        self._waiting = [trial.trial for trial in record.trials if trial.finished is None]
        self._running: dict[int, Trial] = {}
        finished = [trial.finished for trial in record.trials if trial.finished is not None]
        self._ended = len(finished)
        self._failures = sum(each.status == "failed" for each in finished)
        self._gpu_seconds = sum(each.gpu_seconds for each in finished)
        self._began_at, self._wall_before = clock(), record.wall_seconds
        self._exhausted = False
        self._losses: Counter[int] = Counter()
        self._lock = threading.RLock()

    @property
    def rungs(self) -> tuple[float, ...]:
        """Fractions of a trial's training steps at which it is to report `cut_loss`."""
        return self.search.scheduler.rungs if self.search.scheduler else ()

    def next_trial(self) -> Trial | None:
        """The trial to begin now; None while none may be begun, or once no more will be (`has_more` tells which)."""
        with self._lock:
            while self.has_more and len(self._running) < self.search.concurrency:
                number = self._waiting.pop(0) if self._waiting else self._propose()
                if number is None:
                    return None
                if self._was_stopped(number):
                    continue
                try:
                    recipe = self.search.recipe_at(self._record[number].point)
                except RecipeError as error:
                    self._end_unbegun(number, error)
                    continue
                now = self._clock()
                trial = Trial(number, recipe, now, self._record[number].seconds, stage_began_at=now)
                self._running[number] = trial
                return trial
            return None

    @property
    def has_more(self) -> bool:
        """Whether trials may still be begun."""
        with self._lock:
            if self.is_spent or self._failures >= self.search.failures_at_most:
                return False
            return bool(self._waiting) or (not self._exhausted and len(self._record) < self.search.trials_at_most)

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up, so that trials under way end too."""
        with self._lock:
            now, budget = self._clock(), self.search.budget
            wall = self._wall_before + now - self._began_at
            under_way = sum(trial.gpu_seconds(now) for trial in self._running.values())
            waiting = sum(self._record[number].gpu_seconds for number in self._waiting)
            spent = ((budget.wall_hours, wall), (budget.gpu_hours, self._gpu_seconds + under_way + waiting))
            return any(hours is not None and seconds >= _usable(hours * 3600) for hours, seconds in spent)

    def heard(self, number: int, events: Iterable[Event]) -> Decision:
        """What a trial's pipeline reports, in order; the answer says whether it goes on."""
        with self._lock:
            trial = self._running.get(number)
            if trial is None:
                return "stop"
            for event in events:
                self._take(trial, event)
                if trial.ended:
                    return "stop"
            if self.is_spent:
                self._end(trial, TrialFinished(trial=number, status="stopped", message=_BUDGET_OVER))
                return "stop"
            if self._stage_seconds is not None and self._clock() - trial.stage_began_at > self._stage_seconds:
                told = f"a stage had not ended {self._stage_seconds / 3600:.3g} h after it began; {_LONGER}"
                self._end(trial, TrialFinished(trial=number, status="failed", code=STAGE_DEADLINE, message=told))
                return "stop"
            return "go_on"

    def lost(self, number: int, message: str) -> None:
        """A trial's worker is gone. It is begun again, and finds what it had done, until its tries are used up."""
        with self._lock:
            trial = self._running.get(number)
            if trial is None:
                return
            self._losses[number] += 1
            if self._losses[number] >= TRIES:
                told = f"given up after {TRIES} tries; the last one ended with: {message}"
                self._end(trial, TrialFinished(trial=number, status="failed", code="worker_lost", message=told))
                return
            now = self._clock()
            spent = {"seconds": trial.seconds(now), "gpu_seconds": trial.gpu_seconds(now)}
            self._record[number] = self._record[number].model_copy(update=spent)
            self._running.pop(number)
            self._waiting.insert(0, number)

    @property
    def is_idle(self) -> bool:
        """Whether no trial is under way."""
        with self._lock:
            return not self._running

    def last_word(self) -> Succeeded | Failed:
        """How the search ended, once no trial is under way and none is to come."""
        failed = [trial.finished for trial in self._record.values() if trial.finished and trial.finished.code]
        if self._failures < self.search.failures_at_most:
            return Succeeded(results=Results())
        told = Counter(each.message for each in failed)
        message, times = told.most_common(1)[0]
        return Failed(
            fault="recipe",
            code=TOO_MANY_FAILED,
            message=f"{self._failures} of {self._ended} trials failed, {times} of them with: {message}",
        )

    def _propose(self) -> int | None:
        number = len(self._record) + 1
        point = samplers.proposed(self.search, number, list(self._record.values()))
        if point is None:
            self._exhausted = True
            return None
        self._record[number] = TrialRecord(trial=number, point=point)
        self._tell(TrialProposed(trial=number, point=point))
        return number

    def _take(self, trial: Trial, event: Event) -> None:
        match event:
            case StageStarted():
                trial.stages, trial.stage_fraction = max(1, event.count), 0.0
                trial.stage_began_at = self._clock()
                self._progressed(trial, event.stage, 0, 0, {}, now=True)
            case Progress():
                trial.stage_fraction = min(1.0, event.step / max(1, event.steps))
                self._progressed(trial, event.stage, event.step, event.steps, event.metrics)
                if CUT_LOSS in event.metrics:
                    self._at_rungs(trial, event.metrics[CUT_LOSS], event.metrics.get(TRAINING_FRACTION, 0.0))
            case StageFinished():
                trial.stages_done, trial.stage_fraction = trial.stages_done + 1, 0.0
                if not event.reused:
                    trial.computed.add(event.key)
                elif event.key not in trial.computed:
                    stage = " ".join(filter(None, (event.stage, event.subject)))
                    trial.avoided[stage] += max(0.0, (event.cost_seconds or 0.0) - event.seconds)
            case ArtifactStored():
                trial.files += event.files
            case Succeeded():
                self._end(trial, self._measured(trial, event.results))
            case Failed():
                status = TrialFinished(trial=trial.number, status="failed", code=event.code, message=event.message)
                self._end(trial, status)

    def _progressed(
        self, trial: Trial, stage: str, step: int, steps: int, metrics: dict[str, float], now: bool = False
    ) -> None:
        if not now and self._clock() - trial.told_at < PROGRESS_SECONDS:
            return
        trial.told_at = self._clock()
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        fraction = min(1.0, (trial.stages_done + trial.stage_fraction) / trial.stages)
        told = {"trial": trial.number, "stage": stage, "step": step, "steps": steps}
        spent = {"seconds": trial.seconds(trial.told_at), "gpu_seconds": trial.gpu_seconds(trial.told_at)}
        self._tell(TrialProgressed.model_validate({**told, **spent, "fraction": fraction, "metrics": finite}))

    def _at_rungs(self, trial: Trial, loss: float, fraction: float) -> None:
        """Decide at the rung that was reached, unless that is recorded: decisions stand."""
        known = self._record[trial.number]
        reached = [rung for rung, at in enumerate(self.rungs) if at <= fraction + 1e-9]
        if not reached or self.search.scheduler is None or any(each.rung == reached[-1] for each in known.reports):
            return
        rung, value = reached[-1], loss if math.isfinite(loss) else None
        others = [other for number, other in self._record.items() if number != trial.number]
        decision = early_stopping.decide(self.search.scheduler, known, rung, value, others)
        report = TrialReported(trial=trial.number, rung=rung, value=value, decision=decision)
        self._record[trial.number] = known.model_copy(update={"reports": [*known.reports, report]})
        self._tell(report)
        if decision == "stop":
            self._end(trial, self._stopped_at(report))

    def _was_stopped(self, number: int) -> bool:
        """Whether its last report said stop. Its end, which an earlier attempt could not record any more, is told."""
        reports = self._record[number].reports
        if not reports or reports[-1].decision == "go_on":
            return False
        self._conclude(self._stopped_at(reports[-1]))
        return True

    def _stopped_at(self, report: TrialReported) -> TrialFinished:
        rule = self.search.scheduler.kind if self.search.scheduler else "the scheduler"
        at = f"{self.rungs[report.rung]:.0%}" if report.rung < len(self.rungs) else f"rung {report.rung}"
        message = f"ended early at {at} of its training by {rule}"
        return TrialFinished(trial=report.trial, status="stopped", message=message)

    def _measured(self, trial: Trial, results: Results) -> TrialFinished:
        return TrialFinished(
            trial=trial.number,
            status="succeeded",
            values=[objective.value(results) for objective in self.search.objectives],
            excesses=[constraint.excess(results) for constraint in self.search.constraints],
            results=results,
            files=trial.files,
        )

    def _end(self, trial: Trial, finished: TrialFinished) -> None:
        now = self._clock()
        costs = {
            "seconds": trial.seconds(now),
            "gpu_seconds": trial.gpu_seconds(now),
            "avoided_seconds": sum(trial.avoided.values()),
            "avoided_by_stage": dict(trial.avoided),
        }
        trial.ended = True
        self._running.pop(trial.number, None)
        self._conclude(finished.model_copy(update=costs))

    def _end_unbegun(self, number: int, error: RecipeError) -> None:
        self._conclude(TrialFinished(trial=number, status="failed", code=error.code, message=str(error)))

    def _conclude(self, finished: TrialFinished) -> None:
        self._ended += 1
        self._failures += finished.status == "failed"
        self._gpu_seconds += finished.gpu_seconds
        update = {"finished": finished, "ended_as": self._ended}
        self._record[finished.trial] = self._record[finished.trial].model_copy(update=update)
        self._tell(finished)
