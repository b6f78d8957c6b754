"""Jobs over HTTP: submit, list, look at, wait for, cancel."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AwareDatetime
from starlette.concurrency import run_in_threadpool

from api.conditional import already_has, strong_etag
from api.dependencies import Caller, JobId, Wired, Wiring, caller
from api.errors import invalid_request
from api.explain import unstorable
from api.openapi import problems
from api.schemas import (
    FINAL_STATUSES,
    Attempt,
    AttemptList,
    Job,
    JobFault,
    JobList,
    JobRequest,
    JobStatus,
    instant,
    instant_or_none,
)
from service import datasets, idempotency, jobs, plans
from service.database import tables
from service.screening import screened
from workers.contracts.recipe import Recipe

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(caller)])

_ETAG = {"ETag": {"description": "The job's version.", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "Path of the new job.", "schema": {"type": "string"}}}
REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true` if this answer was first given to an earlier request with the same key.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}

IfNoneMatch = Annotated[str | None, Header(description="ETag that you have: 304 if the job is still in that version.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of yours, kept for a day or more: the same key and body get the first answer again.",
    ),
]


async def body_bytes(request: Request) -> bytes:
    """The body as it came over the wire."""
    return await request.body()


@router.post(
    "",
    status_code=201,
    response_model=Job,
    operation_id="submit_job",
    responses=problems(400, 401, 409, 413, 422, 503)
    | {201: {"description": "The job is queued, durably.", "headers": {**_ETAG, **_LOCATION, **REPLAYED}}},
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
    # Keys of one caller never meet those of another.
    remembered_as = f"{key_id}:{idempotency_key}"
    digest = hashlib.sha256(b"POST /v1/jobs\n" + body).hexdigest()
    if idempotency_key is not None:  # an answer once given stands, whatever became of the model's folder
        with wiring.database.reading() as session:
            known = idempotency.replay(session, remembered_as, digest)
        if known is not None:
            return _created(known, replayed=True)
    recipe = _accepted(wiring, wanted.recipe)
    with wiring.database.writing() as session:
        if idempotency_key is not None:
            known = idempotency.replay(session, remembered_as, digest)
            if known is not None:
                return _created(known, replayed=True)
        job = jobs.submit(
            session,
            recipe=recipe,
            metadata=wanted.metadata,
            labels=wanted.labels,
            priority=wanted.priority,
        )
        session.flush()
        answer = json.dumps({"etag": strong_etag(job.version), "id": job.id, "body": job_answer(job).model_dump_json()})
        if idempotency_key is not None:
            idempotency.remember(session, remembered_as, digest, answer)
    return _created(answer, replayed=False)  # after the commit: 201 means durable


def _accepted(wiring: Wiring, recipe: Recipe) -> Recipe:
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


def _created(answer: str, *, replayed: bool) -> Response:
    kept = json.loads(answer)
    headers = {"Location": f"/v1/jobs/{kept['id']}", "ETag": kept["etag"]}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(kept["body"], 201, headers, "application/json")


@router.get("", operation_id="list_jobs", responses=problems(401, 404, 422, 503))
def listing(
    wiring: Wired,
    limit: Annotated[int, Query(ge=1, le=200, description="Jobs at most.")] = 50,
    after: Annotated[str | None, Query(max_length=64, description="Id of the last job you have.")] = None,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this status.")] = None,
    label: Annotated[str | None, Query(max_length=130, description="Only jobs with this label: `name=value`.")] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Only jobs created later.")] = None,
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
        )
        return JobList(data=[job_answer(row) for row in rows], has_more=has_more)


@router.post("/{job_id}:cancel", operation_id="cancel_job", responses=problems(401, 404, 409, 503))
def cancel(wiring: Wired, job_id: JobId, response: Response) -> Job:
    """Cancel a job. A queued one ends at once, a running one as soon as its worker has let go; a final one stays."""
    with wiring.database.writing() as session:
        row = jobs.cancel(session, job_id)
        session.flush()
        answer, version = job_answer(row), row.version
    response.headers["ETag"] = strong_etag(version)
    return answer


@router.get(
    "/{job_id}",
    operation_id="get_job",
    response_model=Job,
    responses=problems(401, 404, 422, 503)
    | {200: {"description": "The job.", "headers": _ETAG}, 304: {"description": "The job is as you know it."}},
)
async def get(
    wiring: Wired,
    job_id: JobId,
    response: Response,
    if_none_match: IfNoneMatch = None,
    wait: Annotated[
        float,
        Query(ge=0, le=60, allow_inf_nan=False, description="Seconds to wait for a change before answering."),
    ] = 0,
) -> Job | Response:
    """Look at a job; with `wait`, as soon as it differs from the version that you have (or from now), or is final."""
    answer, version = await run_in_threadpool(_read, wiring, job_id)
    stale = if_none_match is not None and not already_has(if_none_match, strong_etag(version))
    if wait and not stale:
        answer, version = await _changed(wiring, job_id, version, wait)
    etag = strong_etag(version)
    if already_has(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return answer


async def _changed(wiring: Wiring, job_id: str, known: int, seconds: float) -> tuple[Job, int]:
    """The job once its version is another than `known`, or it is final, or the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    with wiring.tail.follow(job_id) as follower:
        while True:
            answer, version = await run_in_threadpool(_read, wiring, job_id)
            left = deadline - loop.time()
            if version != known or answer.status in FINAL_STATUSES or left <= 0 or wiring.tail.closing:
                return answer, version
            await follower.wait(left)


def _read(wiring: Wiring, job_id: str) -> tuple[Job, int]:
    with wiring.database.reading() as session:
        row = jobs.get(session, job_id)
        return job_answer(row), row.version


@router.get("/{job_id}/attempts", operation_id="list_attempts", responses=problems(401, 404, 503))
def attempts(wiring: Wired, job_id: JobId) -> AttemptList:
    """The tries at a job, first one first."""
    with wiring.database.reading() as session:
        return AttemptList(data=[_attempt_answer(row) for row in jobs.attempts(session, job_id)], has_more=False)


def job_answer(row: tables.Job) -> Job:
    """A job's row as the wire shows it."""
    return Job(
        id=row.id,
        created_at=instant(row.created_at),
        updated_at=instant(row.updated_at),
        started_at=instant_or_none(row.started_at),
        finished_at=instant_or_none(row.finished_at),
        status=row.status,
        stage=row.stage,
        reason=row.reason,
        error=_fault(row),
        recipe=row.recipe,
        results=row.results or {},
        progress=row.progress,
        metadata=row.metadata_,
        labels=row.labels,
        priority=row.priority,
        attempts=row.attempts,
        last_event=row.last_event,
    )


def _attempt_answer(row: tables.Attempt) -> Attempt:
    return Attempt(
        id=row.id,
        job_id=row.job_id,
        number=row.number,
        outcome=row.outcome,
        error=_fault(row),
        started_at=instant(row.started_at),
        ended_at=instant_or_none(row.ended_at),
        node=row.node,
    )


def _fault(row: tables.Job | tables.Attempt) -> JobFault | None:
    return JobFault(code=row.error_code, message=row.error_message or "") if row.error_code else None
