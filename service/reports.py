"""Folds what an attempt reports into its job's row, history and artifacts. Never touches the status."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service import events, trials
from service.artifacts import catalog
from service.database.clock import database_now
from service.database.tables import Job
from service.plain import plain, plain_results
from service.transitions import change
from workers.contracts.events import ArtifactStored, Event, Measured, Progress, StageFinished, StageStarted, Succeeded
from workers.contracts.results import Results


def fold(session: Session, job: Job, attempt_id: str, reported: Sequence[Event]) -> None:
    """Append the events, in order, and bring stage, progress, results, trials and artifacts up to date."""
    for event in reported:
        match event:
            case StageStarted():
                job.stage, job.progress = event.stage, None
                _begin_deadline(session, job)
            case Progress():
                job.stage = event.stage
                job.progress = plain(event)
            case StageFinished():
                job.progress = None
            case Measured():
                known = Results.model_validate(job.results or {})
                job.results = plain_results(known.with_measurement(event.subject, event.measurement))
            case ArtifactStored():
                for stored in event.files:
                    catalog.record(session, job.id, stored, attempt_id)
            case Succeeded():
                job.results = plain_results(event.results)
    if job.kind == "search":
        trials.fold(session, job.id, attempt_id, reported)
        _begin_deadline(session, job)  # of each trial its engine takes care; of the engine, whoever waits for its news
    facts = [(event.type, plain(event)) for event in reported]
    events.append_all(session, job, facts, attempt_id)


def _begin_deadline(session: Session, job: Job) -> None:
    """A stage may take its time from now on."""
    later = database_now() + Job.stage_deadline_seconds
    change(session, Job.id == job.id, Job.stage_deadline_seconds.is_not(None), stage_deadline_at=later)
