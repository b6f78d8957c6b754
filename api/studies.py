"""Studies over REST: each row is a job that says in its labels where it belongs; their table, as far as it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from api.client import Client
from api.display import show_refusal
from api.failures import Refused
from api.recipes import BadFile, with_absolute_paths
from api.schemas import Job
from workers.contracts.base import field_path
from workers.contracts.results import Results
from workers.contracts.study import Row, Study, expand
from workers.errors import RecipeError
from workers.study_table import RowStatus, StudyTable, TableRow

STUDY_LABEL = "study"
ROW_LABEL = "row"
_STATUSES: dict[str, RowStatus] = {"succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled"}


def read_study(plain: Mapping[str, Any]) -> tuple[Study, list[Row]]:
    """A study file's plain values as a study and its rows.

    Raises:
        BadFile: it is no study, or a row is no recipe; names the field and the row.
    """
    try:
        study = Study.model_validate(plain)
        return study, expand(study)
    except RecipeError as error:
        raise BadFile(str(error)) from error
    except ValidationError as error:
        flaws = (f"{field_path(plain, flaw['loc'])}: {flaw['msg']}" for flaw in error.errors())
        raise BadFile("\n".join(flaws)) from error


def submit(
    client: Client, study: Study, rows: Sequence[Row], labels: Mapping[str, str], priority: int, console: Console
) -> list[tuple[Row, Job | Refused]]:
    """Queue each row as a job, telling of it; a row that the server refuses keeps its refusal."""
    queued: list[tuple[Row, Job | Refused]] = []
    for place, row in enumerate(rows, start=1):
        metadata = {
            "study": {"title": study.title, "about": study.about},
            "row": {"name": row.name, "place": place, "is_control": row.is_control},
        }
        recipe = with_absolute_paths(row.recipe.model_dump(mode="json"))
        own = {STUDY_LABEL: study.slug, ROW_LABEL: row.slug}
        console.print(f"row {place} of {len(rows)}: {row.name}", highlight=False, markup=False)
        try:
            job = client.jobs.submit(recipe, metadata=metadata, labels={**labels, **own}, priority=priority)
            console.print(f"  job {job.id}", highlight=False)
            queued.append((row, job))
        except Refused as refusal:
            show_refusal(console, refusal)
            queued.append((row, refusal))
    return queued


def awaited(study: Study, queued: Sequence[tuple[Row, Job | Refused]], end_of: Callable[[Job], TableRow]) -> StudyTable:
    """The study's table; `end_of` waits for a job and gives its line."""
    lines = [_refused(row, answer) if isinstance(answer, Refused) else end_of(answer) for row, answer in queued]
    return StudyTable(title=study.title, about=study.about, rows=lines)


def _refused(row: Row, refusal: Refused) -> TableRow:
    """The line of a row that was never queued."""
    recipe = row.recipe.model_dump(mode="json")
    return TableRow(name=row.name, is_control=row.is_control, status="failed", error=str(refusal), recipe=recipe)


def job_row(client: Client, job: Job) -> TableRow:
    """The line of a row's job, with what is known of it by now."""
    row = job.metadata.get("row", {})
    cost: dict[str, float] = {}
    for event in client.jobs.events(job.id):
        if event.type == "stage_finished":
            cost[event.body["key"]] = event.body.get("cost_seconds") or event.body["seconds"]
    error = f"{job.error.code}: {job.error.message}" if job.error else None
    return TableRow(
        name=str(row.get("name") or job.labels.get(ROW_LABEL) or job.id),
        is_control=bool(row.get("is_control")),
        status=_STATUSES.get(job.status, "unfinished"),
        error=error,
        seconds=sum(cost.values()) if cost else None,
        results=Results.model_validate(job.results),
        recipe=job.recipe,
    )


def study_jobs(client: Client, name: str) -> list[Job]:
    """The newest job of each row of the study with this label, in the order of the table."""
    newest: dict[str, Job] = {}
    after, has_more = None, True
    while has_more:
        page = client.jobs.list(label=f"{STUDY_LABEL}={name}", limit=200, after=after)
        for job in page.data:  # newest first
            newest.setdefault(job.labels.get(ROW_LABEL, job.id), job)
        after, has_more = (page.data[-1].id if page.data else after), page.has_more
    return sorted(newest.values(), key=_place)


def table(jobs: Iterable[Job], rows: Iterable[TableRow], name: str) -> StudyTable:
    """The table of these rows under the title that their jobs carry."""
    about: dict[str, str] = next((job.metadata["study"] for job in jobs if job.metadata.get("study")), {})
    return StudyTable(title=about.get("title") or name, about=about.get("about") or "", rows=list(rows))


def _place(job: Job) -> int:
    place = (job.metadata.get("row") or {}).get("place")
    return place if isinstance(place, int) else 0
