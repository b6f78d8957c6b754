"""Searches as a caller sees them: submit, look up, list, stop, pause, resume, retry; their trials; what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Unpack

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import datasets, entries, queue, screening, search_sources
from service.database import tables
from service.database.tables import Attempt, Job, Trial
from service.errors import InvalidRecipe, NotFound
from workers.contracts.fields import holds
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.search import Point, Search, checked
from workers.contracts.trials import SearchRecord, TrialFinished, TrialRecord, TrialReported
from workers.errors import RecipeError

_LOOKED_AT = {"model", "method", "data", "evaluate"}
"""The sections that screening looks at; recipes that differ in others alone need not be looked at twice."""


@dataclass(frozen=True)
class Tally:
    """Where a search's trials stand, and what they cost."""

    counts: dict[str, int] = field(default_factory=dict)
    """Trials by status."""
    spent_seconds: float = 0.0
    """They were under way for so long, all together; those that have not ended as far as they have told."""
    avoided_seconds: float = 0.0
    """What the stages cost that they found instead of computing them."""
    gpu_seconds: float = 0.0
    """Their seconds times the GPUs of each."""
    avoided_by_stage: dict[str, float] = field(default_factory=dict)
    """`avoided_seconds` by stage, the most first."""


def screened(search: Search, places: Places) -> tuple[Search, Recipe]:
    """The search with every path absolute, and the recipe of its first point.

    The base and each value of the space that makes a recipe with it are looked at as a job's recipe is.

    Raises:
        InvalidRecipe: some of its trials could never run; names the search's field, such as `space.method.ratio`.
    """
    try:
        checked(search)
    except RecipeError as error:
        raise InvalidRecipe.of(error) from error
    search_sources.require_whole_texts(search)
    recipes: list[Recipe] = []
    seen = set()
    for about, point in _points(search):
        try:
            recipe = search.recipe_at(point)
        except RecipeError:
            continue  # `checked` let it pass: it goes with other values
        looked_at = recipe.model_dump_json(include=_LOOKED_AT)
        if looked_at in seen:
            continue
        seen.add(looked_at)
        try:
            recipes.append(screening.screened(recipe, places))
        except InvalidRecipe as error:
            if fault := _told_of_search(error, search, about, point, is_first=not recipes):
                raise fault from error
    return search_sources.anchored(search, places), recipes[0]


def submit(
    session: Session,
    *,
    search: Search,
    recipe: Recipe,
    metadata: dict[str, Any],
    labels: dict[str, str],
    priority: int,
) -> Job:
    """Queue a search that was `screened`, with the recipe of its first point, whose resources each trial takes.

    Raises:
        InvalidRecipe: there is no such data set; names the search's field.
    """
    job = queue.enqueue(
        session,
        recipe=recipe,
        metadata=metadata,
        labels=labels,
        priority=priority,
        kind="search",
        slots=min(search.concurrency, search.trials_at_most),
    )
    digests = datasets.refer_to(session, job.id, search_sources.datasets_of(search))
    spec = search_sources.with_digests(search, digests).model_dump(mode="json")
    session.add(tables.Search(id=job.id, spec=spec, frontier=[]))
    session.flush()
    return job


def get(session: Session, search_id: str) -> tuple[Job, tables.Search]:
    """One search: its row in the queue, and what is its own.

    Raises:
        NotFound: there is none of this id.
    """
    return entries.get(session, "search", search_id), session.get_one(tables.Search, search_id)


def listing(
    session: Session, *, limit: int, after: str | None = None, **filters: Unpack[entries.Filters]
) -> tuple[list[tuple[Job, tables.Search]], bool]:
    """Searches, newest first, and whether there are more.

    Raises:
        NotFound: `after` names no search.
    """
    found, has_more = entries.listing(session, "search", limit=limit, after=after, **filters)
    wanted = select(tables.Search).where(tables.Search.id.in_([job.id for job in found]))
    rows = {row.id: row for row in session.scalars(wanted)}
    return [(job, rows[job.id]) for job in found], has_more


def trials(session: Session, search_id: str, *, after: int = 0, limit: int) -> tuple[list[Trial], bool]:
    """A search's trials with a number above `after`, by number, and whether there are more.

    Raises:
        NotFound: there is no such search.
    """
    get(session, search_id)
    wanted = select(Trial).where(Trial.search_id == search_id, Trial.number > after).order_by(Trial.number)
    found = list(session.scalars(wanted.limit(limit + 1)))
    return found[:limit], len(found) > limit


def trial(session: Session, search_id: str, number: int) -> Trial:
    """One trial.

    Raises:
        NotFound: there is no such search, or it has no trial of this number.
    """
    get(session, search_id)
    found = session.get(Trial, (search_id, number))
    if found is None:
        raise NotFound(f"the search {search_id} has no trial {number}")
    return found


def stop(session: Session, search_id: str) -> Job:
    """End a search: at once if it waits, as soon as its trials have stopped if it runs. What it has found stays.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has already succeeded or failed.
    """
    return queue.cancel(session, get(session, search_id)[0].id)


def pause(session: Session, search_id: str) -> Job:
    """Pause a search: at once if it waits, as soon as its trials have stopped if it runs. Their checkpoints stay.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has ended, or was told to.
    """
    return queue.pause(session, get(session, search_id)[0].id)


def resume(session: Session, search_id: str) -> Job:
    """Queue a paused search again, at its old place; its trials go on from their last checkpoints.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has ended, or was told to.
    """
    return queue.resume(session, get(session, search_id)[0].id)


def retry(session: Session, search_id: str) -> Job:
    """Have a search go on that failed or was stopped. Its trials under way go on from their checkpoints; those that
    failed are tried again if it failed as a whole.

    Raises:
        NotFound: there is none of this id.
        Conflict: it has succeeded, is paused or about to stop, or a data set of it was deleted.
    """
    job, _ = get(session, search_id)
    datasets.require_kept(session, job)
    return queue.retry(session, job.id)


def promoted(session: Session, search_id: str, number: int) -> Recipe:
    """The recipe of a trial, to be queued as a job.

    Raises:
        NotFound: there is no such trial.
        InvalidRecipe: its values make no recipe; it failed for that.
    """
    point = trial(session, search_id, number).point
    try:
        return Search.model_validate(get(session, search_id)[1].spec).recipe_at(point)
    except RecipeError as error:
        raise InvalidRecipe.of(error) from error


def record(session: Session, search_id: str) -> SearchRecord:
    """All that an attempt must know to go on where those before it were.

    Raises:
        pydantic.ValidationError: another version wrote it.
    """
    rows = session.scalars(select(Trial).where(Trial.search_id == search_id).order_by(Trial.number))
    took = func.sum(Attempt.ended_at - Attempt.started_at)
    wall_seconds = session.scalar(select(took).where(Attempt.job_id == search_id, Attempt.ended_at.is_not(None)))
    return SearchRecord(trials=[_record_of(row) for row in rows], wall_seconds=wall_seconds or 0.0)


def tally(session: Session, search_id: str) -> Tally:
    """How many trials stand where, and what all of them cost."""
    costs = [
        func.sum(func.coalesce(Trial.finished[name].as_float(), Trial.progress[name].as_float(), 0.0))
        for name in ("seconds", "avoided_seconds", "gpu_seconds")
    ]
    wanted = select(Trial.status, func.count(), *costs).where(Trial.search_id == search_id).group_by(Trial.status)
    rows = session.execute(wanted).all()
    counts = {row[0]: row[1] for row in rows}
    by_stage: Counter[str] = Counter()
    of_trials = select(Trial.finished["avoided_by_stage"]).where(Trial.search_id == search_id)
    for avoided in session.scalars(of_trials):
        by_stage.update(avoided or {})
    spent, avoided, of_gpus = (float(sum(row[place] for row in rows)) for place in (2, 3, 4))
    return Tally(counts, spent, avoided, of_gpus, dict(by_stage.most_common()))


def _points(search: Search) -> Iterator[tuple[str, Point]]:
    """Points to look at, with the search's field that each is about; the first point of all first."""
    for varied, point in search.probes():
        yield f"space.{varied}", point
    for place, point in enumerate(search.first):
        yield f"first.{place}", point


def _told_of_search(
    error: InvalidRecipe, search: Search, about: str, point: Point, *, is_first: bool
) -> InvalidRecipe | None:
    """A recipe's fault, told where the search says it; None of a value that may go with other values than these."""
    whole = f"{error.field}: {error.detail}"
    if about.startswith("first."):
        return InvalidRecipe(about, whole)
    at = next((each for each in search.space if holds(each, error.field) or holds(error.field, each)), None)
    if at is not None and (is_first or about == f"space.{at}"):
        return InvalidRecipe(f"space.{at}", f"{point[at]!r}: {error.detail}")
    if at is not None:
        return None
    return InvalidRecipe(f"base.{error.field}", error.detail) if is_first else InvalidRecipe(about, whole)


def _record_of(row: Trial) -> TrialRecord:
    under_way = {} if row.finished else row.progress or {}
    return TrialRecord(
        trial=row.number,
        point=row.point,
        reports=[TrialReported.model_validate(report) for report in row.reports],
        finished=TrialFinished.model_validate(row.finished) if row.finished else None,
        ended_as=row.ended_as,
        seconds=under_way.get("seconds", 0.0),
        gpu_seconds=under_way.get("gpu_seconds", 0.0),
    )
