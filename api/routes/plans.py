"""Plans over HTTP: what a job would do, before it is queued."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from api.dependencies import Wired, caller
from api.errors import invalid_request
from api.explain import unstorable
from api.idempotency import body_bytes
from api.openapi import problems
from api.plans import Plan
from api.routes.jobs import with_digests
from api.schemas import JobRequest
from service import pace, plans
from service.screening import screened
from workers.planning.plan import device_kind

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(caller)])


@router.post(
    ":plan",
    operation_id="plan_job",
    response_model=Plan,
    responses=problems(400, 401, 413, 422, 503) | {200: {"description": "What the job would do."}},
)
def plan(
    request: Request, wiring: Wired, wanted: JobRequest, body: Annotated[bytes, Depends(body_bytes)]
) -> plans.Plan | Response:
    """Tell what a job would do: its stages, which of them are known already, memory, time and sizes. Queues nothing.

    A recipe that could never run is refused as by submission. One that does not fit in memory is answered with its
    plan, whose `refusal` says what to change; only submitting it is refused.
    """
    unfit = list(unstorable(json.loads(body)))
    if unfit:
        return invalid_request(request.scope, unfit)
    recipe = screened(with_digests(wiring, wanted.recipe), wiring.settings.places())
    with wiring.database.reading() as session:
        speed = pace.of_device(session, device_kind(recipe), wiring.settings)
    return plans.plan(recipe, wiring.store, speed, wiring.settings)  # may read a whole model: no transaction is held
