"""What to do about the faults that the service itself finds: a node out of memory, a stage past its deadline."""

from typing import get_args

from pydantic import ValidationError

from service.database.tables import Job
from workers.contracts.recipe import Recipe
from workers.contracts.results import StageName
from workers.planning.needs import relief


def with_relief(job: Job, message: str) -> str:
    """The message, followed by the settings that save memory in the job's stage, as far as they can be told."""
    stage = next((name for name in get_args(StageName) if name == job.stage), None)
    try:
        recipe = Recipe.model_validate(job.recipe)
    except ValidationError:  # written by another version
        return f"{message}; use a node with more memory"
    if stage is None:
        return f"{message}; lower batch sizes or data.sequence_length, or use a node with more memory"
    return f"{message}; {relief(stage, recipe)}"


def past_deadline(job: Job) -> str:
    """What to say of an attempt that was stopped because a stage of it, or the engine of a search, took too long."""
    hours = (job.stage_deadline_seconds or 0.0) / 3600
    what = f"the {job.stage} stage had not ended" if job.stage else "it had not come to its first stage"
    if job.kind == "search":
        what = "no trial had told anything"
    begun = "since the last news" if job.kind == "search" else "after it began"
    return (
        f"{what} {hours:.3g} h {begun}, so its worker was stopped; if it only needs longer, raise "
        "resources.stage_deadline_hours (DRESS_STAGE_DEADLINE_HOURS for all), else look at its events for where it hung"
    )
