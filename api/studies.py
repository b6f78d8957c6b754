"""Studies over REST: each row is a job that says in its labels where it belongs; their table, as far as it has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from api.client import Client
from api.comparisons import MOST_IDS
from api.display import show_refusal
from api.failures import Refused
from api.recipes import BadFile, with_absolute_paths
from api.schemas import Job
from workers.comparison.comparison import UNTITLED
from workers.comparison.row import TableRow
from workers.contracts.base import field_path
from workers.contracts.study import Row, Study, expand
from workers.errors import RecipeError
from workers.study_table import StudyTable

STUDY_LABEL = "study"
ROW_LABEL = "row"


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


def awaited(
    client: Client, study: Study, queued: Sequence[tuple[Row, Job | Refused]], wait_for: Callable[[Job], object]
) -> StudyTable:
    """The study's table, once `wait_for` has returned for each of its jobs."""
    ids = [answer.id for _, answer in queued if isinstance(answer, Job)]
    for _, answer in queued:
        if isinstance(answer, Job):
            wait_for(answer)
    parts = [ids[first : first + MOST_IDS] for first in range(0, len(ids), MOST_IDS)]
    rows: dict[str | None, TableRow] = {row.id: row for part in parts for row in client.compare(*part).rows}
    lines = [_refused(row, answer) if isinstance(answer, Refused) else rows[answer.id] for row, answer in queued]
    return StudyTable(title=study.title, about=study.about, rows=lines)


def table(client: Client, name: str) -> StudyTable | None:
    """The table of the study with this label, as far as its jobs have come; None if no job has it."""
    compared = client.compare(labels=[f"{STUDY_LABEL}={name}"])
    if not compared.rows:
        return None
    title = compared.title if compared.title != UNTITLED else name
    return StudyTable(title=title, about=compared.about, rows=list(compared.rows))


def _refused(row: Row, refusal: Refused) -> TableRow:
    """The line of a row that was never queued."""
    recipe = row.recipe.model_dump(mode="json")
    return TableRow(name=row.name, is_control=row.is_control, status="failed", error=str(refusal), recipe=recipe)
