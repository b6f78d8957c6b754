"""Folds what an attempt reports into its job's row, history and artifacts. Never touches the status."""

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from service import events
from service.artifacts import catalog
from service.database.tables import Job
from workers.contracts.events import ArtifactStored, Event, Measured, Progress, StageFinished, StageStarted, Succeeded
from workers.contracts.results import Results


def fold(session: Session, job: Job, attempt_id: str, reported: Sequence[Event]) -> None:
    """Append the events, in order, and bring stage, progress, results and artifacts up to date."""
    for event in reported:
        match event:
            case StageStarted():
                job.stage, job.progress = event.stage, None
            case Progress():
                job.stage = event.stage
                job.progress = _plain(event.model_dump(mode="json", exclude={"type"}))
            case StageFinished():
                job.progress = None
            case Measured():
                known = Results.model_validate(job.results or {})
                job.results = _results(known.with_measurement(event.subject, event.measurement))
            case ArtifactStored():
                for stored in event.files:
                    catalog.record(session, job.id, stored, attempt_id)
            case Succeeded():
                job.results = _results(event.results)
    facts = [(event.type, _plain(event.model_dump(mode="json", exclude={"type"}))) for event in reported]
    events.append_all(session, job, facts, attempt_id)


def _results(results: Results) -> dict[str, Any]:
    """What was not asked for is absent."""
    plain: dict[str, Any] = _plain(results.model_dump(mode="json", exclude_none=True))
    return plain


def _plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinity; a figure that is none becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
