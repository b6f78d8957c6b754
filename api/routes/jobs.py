"""Jobs over HTTP: submit, list, look at, wait for, cancel, pause, resume and retry."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime
from sqlalchemy.orm import Session

from api.answers import job_answer
from api.conditional import strong_etag
from api.dependencies import Caller, CodeQuery, FaultQuery, JobId, Wired, Wiring, caller
from api.errors import invalid_request
from api.explain import unstorable
from api.idempotency import ETAG, LOCATION, REPLAYED, IdempotencyKey, Made, Repeatable, body_bytes, made_once
from api.openapi import problems
from api.owners import JOB
from api.schemas import Job, JobList, JobRequest, JobStatus, Submission
from api.waiting import IfNoneMatch, Wait, look
from service import datasets, jobs, plans
from service.database import tables
from service.screening import screened
from workers.contracts.recipe import Recipe

router = APIRouter(prefix=JOB.root, tags=["jobs"], dependencies=[Depends(caller)])


@router.post(
    "",
    status_code=201,
    response_model=Job,
    operation_id="submit_job",
    responses=problems(400, 401, 409, 413, 422, 503)
    | {201: {"description": "The job is queued, durably.", "headers": {**ETAG, **LOCATION, **REPLAYED}}},
)
def submit(
    request: Request,
    wiring: Wired,
    key_id: Caller,
    wanted: JobRequest,
    body: Annotated[bytes, Depends(body_bytes)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Queue a job. With an `Idempotency-Key` the request may be repeated without queueing another."""
    unfit = list(unstorable(json.loads(body)))
    if unfit:
        return invalid_request(request.scope, unfit)
    repeatable = Repeatable.of(key_id, idempotency_key, JOB.root, line=f"POST {JOB.root}", content=body)

    def make(session: Session, recipe: Recipe) -> Made:
        return queued(session, recipe, wanted)

    return made_once(wiring, repeatable, lambda: accepted(wiring, wanted.recipe), make)


def accepted(wiring: Wiring, recipe: Recipe) -> Recipe:
    """The recipe as it is queued, checked before the transaction: the checks read files.

    Raises:
        InvalidRecipe: it could never run here, or does not fit in memory.
    """
    recipe = screened(with_digests(wiring, recipe), wiring.settings.places())
    plans.refuse_what_cannot_fit(recipe, wiring.store, wiring.settings)
    return recipe


def with_digests(wiring: Wiring, recipe: Recipe) -> Recipe:
    """The recipe, each uploaded data set that it names told by digest too.

    Raises:
        InvalidRecipe: there is no such data set.
    """
    with wiring.database.reading() as session:
        return datasets.resolved(session, wiring.store.uploads, recipe)


def queued(session: Session, recipe: Recipe, asked: Submission, labels: Mapping[str, str] | None = None) -> Made:
    """An accepted recipe as a job in the queue, with these labels besides those asked for.

    Raises:
        InvalidRecipe: a data set was deleted meanwhile.
    """
    row = jobs.submit(
        session,
        recipe=recipe,
        metadata=asked.metadata,
        labels={**asked.labels, **(labels or {})},
        priority=asked.priority,
    )
    session.flush()
    return Made(row.id, job_answer(row).model_dump_json(), row.version)


@router.get("", operation_id="list_jobs", responses=problems(401, 404, 422, 503))
def listing(
    wiring: Wired,
    limit: Annotated[int, Query(ge=1, le=200, description="Jobs at most.")] = 50,
    after: Annotated[str | None, Query(max_length=64, description="Id of the last job you have.")] = None,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this status.")] = None,
    label: Annotated[str | None, Query(max_length=130, description="Only jobs with this label: `name=value`.")] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Only jobs created later.")] = None,
    fault: FaultQuery = None,
    code: CodeQuery = None,
) -> JobList:
    """Jobs, newest first."""
    with wiring.database.reading() as session:
        rows, has_more = jobs.listing(
            session,
            limit=limit,
            after=after,
            status=status,
            label=label,
            created_after=created_after.timestamp() if created_after else None,
            fault=fault,
            code=code,
        )
        return JobList(data=[job_answer(row) for row in rows], has_more=has_more)


@router.post("/{job_id}:cancel", operation_id="cancel_job", responses=problems(401, 404, 409, 503))
def cancel(wiring: Wired, job_id: JobId, response: Response) -> Job:
    """Cancel a job. A queued one ends at once, a running one as soon as its worker has let go; a final one stays."""
    return _changed(wiring, response, lambda session: jobs.cancel(session, job_id))


@router.post("/{job_id}:pause", operation_id="pause_job", responses=problems(401, 404, 409, 503))
def pause(wiring: Wired, job_id: JobId, response: Response) -> Job:
    """Pause a job: it frees what it occupies and keeps its checkpoints. It is `pausing` until its worker has let go."""
    return _changed(wiring, response, lambda session: jobs.pause(session, job_id))


@router.post("/{job_id}:resume", operation_id="resume_job", responses=problems(401, 404, 409, 503))
def resume(wiring: Wired, job_id: JobId, response: Response) -> Job:
    """Queue a paused job again, in its old place. It goes on from its last checkpoint."""
    return _changed(wiring, response, lambda session: jobs.resume(session, job_id))


@router.post("/{job_id}:retry", operation_id="retry_job", responses=problems(401, 404, 409, 503))
def retry(wiring: Wired, job_id: JobId, response: Response) -> Job:
    """Queue a job again that failed or was cancelled, in its old place. It is the same job: its attempts and events
    count on, and the stages that it finished are found. One that waits for its next attempt begins it now."""
    return _changed(wiring, response, lambda session: jobs.retry(session, job_id))


def _changed(wiring: Wiring, response: Response, change: Callable[[Session], tables.Job]) -> Job:
    def write(session: Session) -> tuple[Job, int]:
        row = change(session)
        session.flush()
        return job_answer(row), row.version

    answer, version = wiring.database.write(write)
    response.headers["ETag"] = strong_etag(version)
    return answer


@router.get(
    "/{job_id}",
    operation_id="get_job",
    response_model=Job,
    responses=problems(401, 404, 422, 503)
    | {200: {"description": "The job.", "headers": ETAG}, 304: {"description": "The job is as you know it."}},
)
async def get(
    wiring: Wired, job_id: JobId, response: Response, if_none_match: IfNoneMatch = None, wait: Wait = 0
) -> Job | Response:
    """Look at a job; with `wait`, as soon as it differs from the version that you have (or from now), or is final."""

    def read() -> tuple[Job, int]:
        with wiring.database.reading() as session:
            row = jobs.get(session, job_id)
            return job_answer(row), row.version

    return await look(wiring.tail, job_id, read, response, if_none_match, wait)
