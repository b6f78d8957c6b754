"""Searches over HTTP: submit, list, look at, wait for, stop, pause, resume, retry; trials, which may become jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AwareDatetime
from sqlalchemy.orm import Session

from api.conditional import strong_etag
from api.dependencies import Caller, CodeQuery, FaultQuery, SearchId, Wired, Wiring, caller
from api.errors import invalid_request, problem
from api.explain import unstorable
from api.idempotency import ETAG, LOCATION, REPLAYED, IdempotencyKey, Made, Repeatable, body_bytes, made_once
from api.openapi import problems
from api.owners import JOB, SEARCH
from api.routes.jobs import accepted, queued, with_digests
from api.schemas import Job, JobStatus, ProblemItem
from api.search_answers import search_answer, search_of, trial_answer
from api.search_faults import recipe_faults, search_pointer, written_at
from api.searches import PromotionRequest, QueuedSearch, SearchList, SearchRequest, Trial, TrialList
from api.waiting import IfNoneMatch, Wait, look
from service import plans, searches
from service.database import tables
from service.errors import InvalidRecipe
from workers.contracts.recipe import Recipe
from workers.contracts.search import Search

router = APIRouter(prefix=SEARCH.root, tags=["searches"], dependencies=[Depends(caller)])

_STATUS = "Only searches in this status."
_LABEL = "Only searches with this label: `name=value`."

Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="The trial's number in its search, from 1.")]


@router.post(
    "",
    status_code=201,
    response_model=QueuedSearch,
    operation_id="submit_search",
    responses=problems(400, 401, 409, 413, 422, 503)
    | {201: {"description": "The search is queued, durably.", "headers": {**ETAG, **LOCATION, **REPLAYED}}},
)
def submit(
    request: Request,
    wiring: Wired,
    key_id: Caller,
    wanted: SearchRequest,
    body: Annotated[bytes, Depends(body_bytes)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a search. With an `Idempotency-Key` the request may be repeated without queueing another."""
    plain = json.loads(body)
    unfit = [*unstorable(plain)] or recipe_faults(wanted.search)
    if unfit:
        return invalid_request(request.scope, unfit)
    repeatable = Repeatable.of(key_id, idempotency_key, SEARCH.root, line=f"POST {SEARCH.root}", content=body)

    def make(session: Session, ready: tuple[Search, Recipe]) -> Made:
        search, recipe = ready
        row = searches.submit(
            session,
            search=search,
            recipe=recipe,
            metadata=wanted.metadata,
            labels=wanted.labels,
            priority=wanted.priority,
        )
        session.flush()
        answer, version = _told(session, row.id)
        return Made(row.id, answer.model_dump_json(), version)

    try:
        return made_once(wiring, repeatable, lambda: _accepted(wiring, wanted.search), make)
    except InvalidRecipe as error:
        items = [ProblemItem(pointer=search_pointer(error.field, plain["search"]), detail=error.detail)]
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        return problem(request.scope, status, str(error), code="invalid_search", errors=items)


def _accepted(wiring: Wiring, wanted: Search) -> tuple[Search, Recipe]:
    """The search as it is queued, and the recipe of its first point, checked before the transaction.

    Raises:
        InvalidRecipe: it could never run here; the field is one of the search's.
    """
    search, recipe = searches.screened(wanted, wiring.settings.places())
    try:
        recipe = with_digests(wiring, recipe)
        plans.refuse_what_cannot_fit(recipe, wiring.store, wiring.settings)
    except InvalidRecipe as error:
        raise InvalidRecipe(written_at(error.field, search), error.detail) from error
    return search, recipe


@router.get("", operation_id="list_searches", responses=problems(401, 404, 422, 503))
def listing(
    wiring: Wired,
    limit: Annotated[int, Query(ge=1, le=200, description="Searches at most.")] = 50,
    after: Annotated[str | None, Query(max_length=64, description="Id of the last search you have.")] = None,
    status: Annotated[JobStatus | None, Query(description=_STATUS)] = None,
    label: Annotated[str | None, Query(max_length=130, description=_LABEL)] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Only searches created later.")] = None,
    fault: FaultQuery = None,
    code: CodeQuery = None,
) -> SearchList:
    """Searches, newest first."""
    with wiring.database.reading() as session:
        rows, has_more = searches.listing(
            session,
            limit=limit,
            after=after,
            status=status,
            label=label,
            created_after=created_after.timestamp() if created_after else None,
            fault=fault,
            code=code,
        )
        return SearchList(data=[search_answer(session, job, row) for job, row in rows], has_more=has_more)


@router.post("/{search_id}:stop", operation_id="stop_search", responses=problems(401, 404, 409, 503))
def stop(wiring: Wired, search_id: SearchId, response: Response) -> QueuedSearch:
    """End a search now. What it has found stays, its best trial too; trials under way are given up."""
    return _changed(wiring, response, lambda session: searches.stop(session, search_id))


@router.post("/{search_id}:pause", operation_id="pause_search", responses=problems(401, 404, 409, 503))
def pause(wiring: Wired, search_id: SearchId, response: Response) -> QueuedSearch:
    """Pause a search: it frees what it occupies. It is `pausing` until its trials have let go."""
    return _changed(wiring, response, lambda session: searches.pause(session, search_id))


@router.post("/{search_id}:resume", operation_id="resume_search", responses=problems(401, 404, 409, 503))
def resume(wiring: Wired, search_id: SearchId, response: Response) -> QueuedSearch:
    """Queue a paused search again. Trials that were under way go on from their checkpoints."""
    return _changed(wiring, response, lambda session: searches.resume(session, search_id))


@router.post("/{search_id}:retry", operation_id="retry_search", responses=problems(401, 404, 409, 503))
def retry(wiring: Wired, search_id: SearchId, response: Response) -> QueuedSearch:
    """Let a search go on that failed or was stopped. Trials that were given up go on; if it failed, those that
    failed are tried again."""
    return _changed(wiring, response, lambda session: searches.retry(session, search_id))


def _changed(wiring: Wiring, response: Response, change: Callable[[Session], tables.Job]) -> QueuedSearch:
    def write(session: Session) -> tuple[QueuedSearch, int]:
        row = change(session)
        session.flush()
        return _told(session, row.id)

    answer, version = wiring.database.write(write)
    response.headers["ETag"] = strong_etag(version)
    return answer


def _told(session: Session, search_id: str) -> tuple[QueuedSearch, int]:
    job, row = searches.get(session, search_id)
    return search_answer(session, job, row), job.version


@router.get(
    "/{search_id}",
    operation_id="get_search",
    response_model=QueuedSearch,
    responses=problems(401, 404, 422, 503)
    | {200: {"description": "The search.", "headers": ETAG}, 304: {"description": "The search is as you know it."}},
)
async def get(
    wiring: Wired, search_id: SearchId, response: Response, if_none_match: IfNoneMatch = None, wait: Wait = 0
) -> QueuedSearch | Response:
    """Look at a search; with `wait`, as soon as it differs from the version that you have (or from now), or is
    final."""

    def read() -> tuple[QueuedSearch, int]:
        with wiring.database.reading() as session:
            return _told(session, search_id)

    return await look(wiring.tail, search_id, read, response, if_none_match, wait)


@router.get("/{search_id}/trials", operation_id="list_trials", responses=problems(401, 404, 422, 503))
def trials(
    wiring: Wired,
    search_id: SearchId,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Number of the last trial that you have.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Trials at most.")] = 200,
) -> TrialList:
    """A search's trials, by number."""
    with wiring.database.reading() as session:
        search = _search(session, search_id)
        rows, has_more = searches.trials(session, search_id, after=after, limit=limit)
        return TrialList(data=[trial_answer(search, row) for row in rows], has_more=has_more)


@router.get("/{search_id}/trials/{number}", operation_id="get_trial", responses=problems(401, 404, 422, 503))
def trial(wiring: Wired, search_id: SearchId, number: Number) -> Trial:
    """Look at a trial."""
    with wiring.database.reading() as session:
        search = _search(session, search_id)
        return trial_answer(search, searches.trial(session, search_id, number))


def _search(session: Session, search_id: str) -> Search:
    return search_of(searches.get(session, search_id)[1])


@router.post(
    "/{search_id}/trials/{number}:promote",
    status_code=201,
    response_model=Job,
    operation_id="promote_trial",
    responses=problems(400, 401, 404, 409, 413, 422, 503)
    | {201: {"description": "The job is queued, durably.", "headers": {**ETAG, **LOCATION, **REPLAYED}}},
)
def promote(
    request: Request,
    wiring: Wired,
    key_id: Caller,
    search_id: SearchId,
    number: Number,
    body: Annotated[bytes, Depends(body_bytes)],
    wanted: PromotionRequest | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue the recipe of a trial as a job, with the labels `search` and `trial` beside yours. It finds what the trial
    computed. With an `Idempotency-Key` the request may be repeated without queueing another."""
    asked = wanted or PromotionRequest()
    unfit = [*unstorable(json.loads(body))] if body else []
    if unfit:
        return invalid_request(request.scope, unfit)
    line = f"POST {request.url.path}"
    repeatable = Repeatable.of(key_id, idempotency_key, JOB.root, line=line, content=body)
    labels = {"search": search_id, "trial": str(number)}

    def prepare() -> Recipe:
        with wiring.database.reading() as session:
            recipe = searches.promoted(session, search_id, number)
        return accepted(wiring, recipe)

    def make(session: Session, recipe: Recipe) -> Made:
        return queued(session, recipe, asked, labels)

    try:
        return made_once(wiring, repeatable, prepare, make)
    except InvalidRecipe as error:  # nothing of the request's own is wrong
        return problem(request.scope, HTTPStatus.UNPROCESSABLE_ENTITY, str(error), code=error.code)
