"""The tries at a job or a search, over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from api.answers import attempt_answer
from api.dependencies import JobId, SearchId, Wired, Wiring, caller
from api.openapi import problems
from api.owners import JOB, SEARCH, Owner
from api.schemas import AttemptList
from service import jobs

router = APIRouter(dependencies=[Depends(caller)])


@router.get(
    JOB.root + "/{job_id}/attempts", tags=["jobs"], operation_id="list_attempts", responses=problems(401, 404, 503)
)
def of_job(wiring: Wired, job_id: JobId) -> AttemptList:
    """The tries at a job, first one first."""
    return _listed(wiring, JOB, job_id)


@router.get(
    SEARCH.root + "/{search_id}/attempts",
    tags=["searches"],
    operation_id="list_search_attempts",
    responses=problems(401, 404, 503),
)
def of_search(wiring: Wired, search_id: SearchId) -> AttemptList:
    """The tries at a search, first one first. Each goes on with what those before it recorded."""
    return _listed(wiring, SEARCH, search_id)


def _listed(wiring: Wiring, owner: Owner, owner_id: str) -> AttemptList:
    with wiring.database.reading() as session:
        owner.find(session, owner_id)
        return AttemptList(data=[attempt_answer(row) for row in jobs.attempts(session, owner_id)], has_more=False)
