"""Jobs side by side: which ones are asked for, and what the database knows of each, as rows of one table."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import jobs
from service.database.tables import Event, Job
from service.domain.job import FINAL, Status
from workers.comparison.columns import in_order
from workers.comparison.comparison import Comparison
from workers.comparison.row import RowStatus, TableRow
from workers.contracts.results import Results

STUDY_LABEL = "study"
ROW_LABEL = "row"
"""Labels of a study's jobs: the study's name and the row's."""

MOST_ROWS = 1000
"""Rows of one comparison."""

_STATUSES: dict[str, RowStatus] = {
    Status.SUCCEEDED.value: "succeeded",
    Status.FAILED.value: "failed",
    Status.CANCELLED.value: "cancelled",
}


def chosen(session: Session, ids: Sequence[str], labels: Sequence[str]) -> tuple[list[Job], list[str]]:
    """The jobs with these ids, in this order, then those with any of these labels; and the ids that no job has.

    Of a study's row, picked by label, the newest job alone stands for it; a study's rows keep the order of its table.
    More than `MOST_ROWS` + 1 are never given.
    """
    of_ids = select(Job).where(Job.kind == "job", Job.id.in_(ids))
    found = {job.id: job for job in session.scalars(of_ids)} if ids else {}
    missing = [job_id for job_id in dict.fromkeys(ids) if job_id not in found]
    picked = {job_id: found[job_id] for job_id in ids if job_id in found}
    for label in labels:
        newest_first, _ = jobs.listing(session, limit=MOST_ROWS + 1, label=label)
        for job in sorted(_newest_of_each_row(newest_first), key=_place):
            picked.setdefault(job.id, job)
    return list(picked.values())[: MOST_ROWS + 1], missing


def compared(session: Session, chosen: Sequence[Job], by: str | None = None) -> Comparison:
    """The jobs side by side, finished or not, in their order or by a column's figures.

    Raises:
        LookupError: they have no such column.
    """
    seconds = _seconds(session, [job.id for job in chosen])
    rows = [_row(job, seconds.get(job.id)) for job in chosen]
    rows = in_order(rows, by) if by else rows
    studies = [_of_metadata(job, "study") for job in chosen]
    if studies and studies[0].get("title") and all(study == studies[0] for study in studies):
        return Comparison.of(rows, title=str(studies[0]["title"]), about=str(studies[0].get("about") or ""))
    return Comparison.of(rows)


def _newest_of_each_row(newest_first: Iterable[Job]) -> list[Job]:
    newest: dict[tuple[str, ...], Job] = {}
    for job in newest_first:
        study, row = job.labels.get(STUDY_LABEL), job.labels.get(ROW_LABEL)
        newest.setdefault((study, row) if study and row else (job.id,), job)
    return list(newest.values())


def _place(job: Job) -> tuple[int, float]:
    place = _of_metadata(job, "row").get("place")
    return (place if isinstance(place, int) else 0, job.created_at)


def _of_metadata(job: Job, name: str) -> dict[str, Any]:
    """What `dress submit` noted of a study's row; metadata are the caller's own and may hold anything."""
    noted = job.metadata_.get(name)
    return noted if isinstance(noted, dict) else {}


def _seconds(session: Session, ids: Sequence[str]) -> dict[str, float]:
    """What each job's stages cost, by whomever they were computed; a stage that was run again counts once."""
    finished = select(Event.job_id, Event.body).where(Event.job_id.in_(ids), Event.type == "stage_finished")
    costs: dict[str, dict[str, float]] = {}
    for job_id, body in session.execute(finished.order_by(Event.id)):
        costs.setdefault(job_id, {})[body["key"]] = body.get("cost_seconds") or body["seconds"]
    return {job_id: sum(cost.values()) for job_id, cost in costs.items()}


def _row(job: Job, seconds: float | None) -> TableRow:
    error = f"{job.error_code}: {job.error_message or ''}" if job.error_code else None
    try:
        results = Results.model_validate(job.results or {})
    except ValidationError:
        results, error = Results(), error or "its figures were recorded by another version and cannot be read"
    noted = _of_metadata(job, "row")
    at = f"{job.status}: {job.stage}" if job.stage and job.status != Status.QUEUED.value else job.status
    return TableRow(
        name=str(noted.get("name") or job.labels.get(ROW_LABEL) or job.id),
        id=job.id,
        labels=job.labels,
        is_control=noted.get("is_control") is True,
        status=_STATUSES.get(job.status, "unfinished"),
        state=None if job.status in FINAL else at,
        error=error,
        seconds=seconds,
        results=results,
        recipe=job.recipe,
    )
