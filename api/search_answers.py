"""Searches and trials as the wire shows them, made of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.answers import fault, next_attempt_at
from api.schemas import Fault, instant, instant_or_none
from api.searches import (
    BestTrial,
    FrontierTrial,
    QueuedSearch,
    RungReport,
    SearchTally,
    SearchWork,
    Trial,
    Values,
)
from service import jobs, searches
from service.database import tables
from workers.contracts.search import Search
from workers.contracts.trials import TrialFinished

_RECENT = 100
"""Trials by which the time that is left is told."""


@dataclass(frozen=True)
class Pace:
    """How a search gets on."""

    mean_seconds: float | None
    """What a trial takes, of those that ended lately; None while none has."""
    under_way: float
    """What is done of the trials under way, in trials."""
    wall_seconds: float
    """Attempts of the search have run for so long."""
    gpu_seconds: float
    gpus: int
    """Of each trial."""


def search_answer(session: Session, job: tables.Job, row: tables.Search) -> QueuedSearch:
    """A search's rows as the wire shows them. Rests on rows alone, so that one version is always told alike."""
    search = search_of(row)
    tally, work = _tally_and_work(session, row.id)
    ranked = {number: searches.trial(session, row.id, number) for number in {*row.frontier, *filter(None, [row.best])}}
    is_running = job.status == "running"
    frontier = [FrontierTrial(trial=number, values=_values(search, ranked[number])) for number in row.frontier]
    return QueuedSearch(
        id=job.id,
        created_at=instant(job.created_at),
        updated_at=instant(job.updated_at),
        started_at=instant_or_none(job.started_at),
        finished_at=instant_or_none(job.finished_at),
        status=job.status,
        reason=job.reason,
        next_attempt_at=next_attempt_at(job),
        error=fault(job),
        search=row.spec,
        best=_best(search, ranked[row.best]) if row.best is not None else None,
        frontier=frontier,
        tally=tally,
        trials_at_most=search.trials_at_most,
        work=work,
        eta_seconds=eta_seconds(search, _pace(session, job, tally, work), tally.ended) if is_running else None,
        metadata=job.metadata_,
        labels=job.labels,
        priority=job.priority,
        attempts=job.attempts,
        last_event=job.last_event,
    )


def search_of(row: tables.Search) -> Search:
    """What was asked for. What a newer version added to it is passed over."""
    return Search.model_validate(row.spec, extra="ignore")


def trial_answer(search: Search, row: tables.Trial) -> Trial:
    """A trial's row as the wire shows it."""
    finished = _ending(row)
    failed = finished is not None and finished.status == "failed"
    # One that its search gave up has told no end: what it last said counts.
    cost = (row.finished or row.progress or {}) if row.ended_at is not None else {}
    return Trial(
        search_id=row.search_id,
        trial=row.number,
        status=row.status,
        point=row.point,
        values=_values(search, row),
        feasible=finished.is_feasible if finished and finished.status == "succeeded" else None,
        reports=[_report(search, report) for report in row.reports],
        progress=None if row.ended_at is not None else row.progress,
        results=(row.finished or {}).get("results"),
        seconds=cost.get("seconds"),
        gpu_seconds=cost.get("gpu_seconds"),
        avoided_seconds=cost.get("avoided_seconds"),
        avoided_by_stage=cost.get("avoided_by_stage") or {},
        error=Fault(code=finished.code or "unknown", message=finished.message or "") if finished and failed else None,
        reason=_reason(row, finished),
        created_at=instant(row.created_at),
        ended_at=instant_or_none(row.ended_at),
        ended_as=row.ended_as,
    )


def eta_seconds(search: Search, pace: Pace, ended: int) -> float | None:
    """Seconds to the end of a search that runs: as many as the trials left take, or as its budget lasts.

    Args:
        ended: trials that are over.
    """
    if pace.mean_seconds is None:
        return None
    left = max(search.trials_at_most - ended, 0)
    beside = min(search.concurrency, left) or 1
    ends = [pace.mean_seconds * max(left - pace.under_way, 0.0) / beside]
    if search.budget.wall_hours is not None:
        ends.append(3600 * search.budget.wall_hours - pace.wall_seconds)
    if search.budget.gpu_hours is not None and pace.gpus:
        ends.append((3600 * search.budget.gpu_hours - pace.gpu_seconds) / (pace.gpus * beside))
    return max(min(ends), 0.0)


def _tally_and_work(session: Session, search_id: str) -> tuple[SearchTally, SearchWork]:
    told = searches.tally(session, search_id)
    cost = told.spent_seconds + told.avoided_seconds
    tally = SearchTally(**{status: told.counts.get(status, 0) for status in SearchTally.model_fields})
    work = SearchWork(
        spent_seconds=told.spent_seconds,
        avoided_seconds=told.avoided_seconds,
        avoided_fraction=told.avoided_seconds / cost if cost else None,
        avoided_by_stage=told.avoided_by_stage,
        gpu_seconds=told.gpu_seconds,
    )
    return tally, work


def _pace(session: Session, job: tables.Job, tally: SearchTally, work: SearchWork) -> Pace:
    """How a search gets on, as far as its newest trials tell."""
    proposed = tally.ended + tally.running + tally.waiting
    recent, _ = searches.trials(session, job.id, after=max(proposed - _RECENT, 0), limit=_RECENT)
    seconds = [row.finished["seconds"] for row in recent if row.finished]
    tried = jobs.attempts(session, job.id)
    return Pace(
        mean_seconds=sum(seconds) / len(seconds) if seconds else None,
        under_way=sum((row.progress or {}).get("fraction", 0.0) for row in recent if row.ended_at is None),
        # To the newest change, not to now: an ETag stands for one body.
        wall_seconds=sum((each.ended_at or job.updated_at) - each.started_at for each in tried),
        gpu_seconds=work.gpu_seconds,
        gpus=job.recipe["resources"]["gpus"],
    )


def _best(search: Search, row: tables.Trial) -> BestTrial:
    recipe = search.recipe_at(row.point).model_dump(mode="json")
    return BestTrial(trial=row.number, values=_values(search, row), recipe=recipe)


def _values(search: Search, row: tables.Trial) -> Values:
    values = (row.finished or {}).get("values") or []
    return {objective.metric: value for objective, value in zip(search.objectives, values, strict=False)}


def _ending(row: tables.Trial) -> TrialFinished | None:
    """How it ended, but for results and files: those are given back as they were stored, whoever wrote them."""
    told = {name: value for name, value in (row.finished or {}).items() if name not in ("results", "files")}
    return TrialFinished.model_validate(told, extra="ignore") if told else None


def _reason(row: tables.Trial, finished: TrialFinished | None) -> str | None:
    if finished is not None:
        return finished.message if finished.status == "stopped" else None
    return "its search ended while it was under way" if row.status == "stopped" else None


def _report(search: Search, report: Mapping[str, object]) -> RungReport:
    rungs = search.scheduler.rungs if search.scheduler else ()
    rung = report["rung"]
    fraction = rungs[rung] if isinstance(rung, int) and rung < len(rungs) else None
    return RungReport.model_validate({**report, "fraction": fraction})
