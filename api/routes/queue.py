"""The queue at a glance over HTTP: counts, what runs, what waits and why, what is dead."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.answers import fault as fault_of
from api.answers import next_attempt_at
from api.dependencies import CodeQuery, FaultQuery, Wired, caller
from api.openapi import problems
from api.queue_overview import ErrorCount, QueueEntry, QueueOverview
from api.schemas import instant, instant_or_none
from service import overview
from service.database import tables

router = APIRouter(prefix="/v1/queue", tags=["queue"], dependencies=[Depends(caller)])


@router.get("", operation_id="get_queue", responses=problems(401, 422, 503))
def get(
    wiring: Wired,
    limit: Annotated[int, Query(ge=1, le=200, description="Entries of each list at most.")] = 50,
    fault: FaultQuery = None,
    code: CodeQuery = None,
) -> QueueOverview:
    """What runs, what waits and why, what goes on when, and what is dead; `fault` and `code` choose among the dead."""
    with wiring.database.reading() as session:
        found = overview.overview(session, limit=limit, fault=fault, code=code)
        return QueueOverview.model_validate(
            {
                "counts": found.counts,
                "running": [_entry(row) for row in found.running],
                "waiting": [_entry(row) for row in found.waiting],
                "backing_off": [_entry(row) for row in found.backing_off],
                "dead": [_entry(row) for row in found.dead],
                "errors": [ErrorCount(fault=toll.fault, code=toll.code, count=toll.count) for toll in found.tolls],
            }
        )


def _entry(row: tables.Job) -> QueueEntry:
    return QueueEntry.model_validate(
        {
            "id": row.id,
            "object": row.kind,
            "status": row.status,
            "stage": row.stage,
            "reason": row.reason,
            "error": fault_of(row),
            "attempts": row.attempts,
            "priority": row.priority,
            "labels": row.labels,
            "created_at": instant(row.created_at),
            "started_at": instant_or_none(row.started_at),
            "finished_at": instant_or_none(row.finished_at),
            "next_attempt_at": next_attempt_at(row),
            "stage_deadline_at": instant_or_none(row.stage_deadline_at),
        }
    )
