"""The rows of a search's trials: what its engine reports of them, and what becomes of them when the search stops."""

import logging
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.artifacts import catalog
from service.database import tables
from service.database.clock import database_now
from service.database.tables import Trial
from service.domain.job import FINAL, Status
from service.plain import plain, plain_results
from workers.contracts.events import Event
from workers.contracts.results import StoredFile
from workers.contracts.search import MOST_TRIALS, Search
from workers.contracts.trials import TrialFinished, TrialProgressed, TrialProposed, TrialReported
from workers.searching import ranking

logger = logging.getLogger(__name__)

RUNNING, WAITING, STOPPED, FAILED = "running", "waiting", "stopped", "failed"
"""A trial is under way; is not, because its search is not; has ended early; has ended with an error."""


def folder_of(number: int) -> str:
    """Where a trial's files lie among its search's artifacts, such as `trial-7/`."""
    return f"trial-{number}/"


def fold(session: Session, search_id: str, attempt_id: str, reported: Sequence[Event]) -> None:
    """Bring the trials up to date, in order. What is known already is passed over: a later attempt may tell it anew."""
    ended = []
    for event in reported:
        if isinstance(event, TrialProposed):
            _proposed(session, search_id, event)
        elif isinstance(event, TrialProgressed | TrialReported | TrialFinished):
            trial = session.get(Trial, (search_id, event.trial))
            if trial is None or trial.finished is not None:
                continue
            match event:
                case TrialProgressed():
                    trial.status, trial.progress = RUNNING, plain(event)
                case TrialReported():
                    trial.status = RUNNING
                    _reported(trial, event)
                case TrialFinished():
                    _finished(session, trial, event)
                    ended.append(event.trial)
    session.flush()
    if ended:
        _rank(session, search_id, attempt_id, ended)


def leave(session: Session, search_id: str, to: Status) -> None:
    """What becomes of trials under way when their search comes to a status in which none is. Of a job: nothing."""
    of_search = (Trial.search_id == search_id, Trial.finished.is_(None))
    if to in FINAL:
        stopped = update(Trial).where(*of_search, Trial.status.in_((RUNNING, WAITING)))
        session.execute(stopped.values(status=STOPPED, ended_at=database_now()))
    else:
        session.execute(update(Trial).where(*of_search, Trial.status == RUNNING).values(status=WAITING))


def reopen(session: Session, job: tables.Job, *, failed_too: bool) -> None:
    """Have the trials that a search's end stopped wait for its next attempt, and perhaps those that failed. Of a job:
    nothing."""
    if job.kind != "search":
        return
    place = 0
    for trial in session.scalars(select(Trial).where(Trial.search_id == job.id).order_by(Trial.ended_as)).all():
        if trial.finished is None or (failed_too and trial.status == FAILED):
            trial.status, trial.finished, trial.ended_as, trial.ended_at = WAITING, None, None, None
        else:
            place += 1
            trial.ended_as = place  # without gaps: the next one to end counts on
    session.flush()


def how_far(session: Session, job: tables.Job) -> str | None:
    """How many trials a search that is told to end had brought to their end, in words; None for a job.

    Those that it gave up are told too: they count as stopped.
    """
    search = session.get(tables.Search, job.id) if job.kind == "search" else None
    if search is None:
        return None
    counted = select(func.count(), func.count(Trial.ended_as)).where(Trial.search_id == job.id)
    begun, count = session.execute(counted).one()
    try:
        most = Search.model_validate(search.spec).trials_at_most
    except ValidationError:  # written by another version
        most = MOST_TRIALS
    of = f" of {most}" if most < MOST_TRIALS else ""  # none were asked for by number
    given_up = f", {begun - count} more given up" if begun > count else ""
    return f"stopped after {count}{of} trial{'' if (most if of else count) == 1 else 's'}{given_up}"


def _proposed(session: Session, search_id: str, event: TrialProposed) -> None:
    trial = session.get(Trial, (search_id, event.trial))
    if trial is None:
        point = plain(event)["point"]
        session.add(Trial(search_id=search_id, number=event.trial, status=RUNNING, point=point, reports=[]))
        session.flush()
    elif trial.finished is None:
        trial.status = RUNNING


def _reported(trial: Trial, event: TrialReported) -> None:
    if all(report["rung"] != event.rung for report in trial.reports):
        trial.reports = sorted([*trial.reports, plain(event)], key=lambda report: report["rung"])


def _finished(session: Session, trial: Trial, event: TrialFinished) -> None:
    before = session.scalar(select(func.max(Trial.ended_as)).where(Trial.search_id == trial.search_id)) or 0
    trial.status, trial.finished = event.status, _readable(event)
    trial.ended_as, trial.ended_at = before + 1, database_now()
    session.flush()


def _readable(event: TrialFinished) -> dict[str, Any]:
    """As later attempts read it back; a figure that is no number must not keep a search from going on."""
    results = {} if event.results is None else {"results": plain_results(event.results)}
    finished = plain(event) | results
    try:
        TrialFinished.model_validate(finished)
    except ValidationError:
        return finished | {"results": None}
    return finished


def _rank(session: Session, search_id: str, attempt_id: str, ended: Sequence[int]) -> None:
    """See which trials are the best now. Only those that were, and those that are new, can be."""
    row = session.get_one(tables.Search, search_id)
    try:
        search = Search.model_validate(row.spec)
    except ValidationError:
        logger.warning("%s was written by another version; its trials are not ranked", search_id)
        return
    before = _kept(search, row.best, row.frontier, [])
    finished = _figures(session, search, search_id, {*ended, *row.frontier, *([row.best] if row.best else [])})
    row.best, row.frontier = ranking.best(search, finished), ranking.frontier(search, finished)
    after = _kept(search, row.best, row.frontier, ended)
    for number in before - after if search.keep != "all" else ():
        catalog.forget(session, search_id, folder_of(number))
    for number in sorted(after - before):
        _keep(session, session.get_one(Trial, (search_id, number)), attempt_id)


def _kept(search: Search, best: int | None, frontier: Collection[int], ended: Collection[int]) -> set[int]:
    """The trials whose files are the search's artifacts; of `all`, the new ones."""
    match search.keep:
        case "best":
            return set() if best is None else {best}
        case "frontier":
            return set(frontier)
        case "all":
            return set(ended)
        case "none":
            return set()


def _figures(session: Session, search: Search, search_id: str, numbers: Collection[int]) -> list[TrialFinished]:
    """What ranking needs of these trials."""
    wanted = select(Trial.number, Trial.finished["values"], Trial.finished["excesses"]).where(
        Trial.search_id == search_id, Trial.number.in_(numbers), Trial.status == "succeeded"
    )
    return [
        TrialFinished(trial=number, status="succeeded", values=values, excesses=excesses)
        for number, values, excesses in session.execute(wanted)
        if len(values or ()) == len(search.objectives)
    ]


def _keep(session: Session, trial: Trial, attempt_id: str) -> None:
    for plain_file in (trial.finished or {}).get("files", []):
        stored = StoredFile.model_validate(plain_file)
        kept = stored.model_copy(update={"path": folder_of(trial.number) + stored.path})
        catalog.record(session, trial.search_id, kept, attempt_id)
