"""Is the server alive, and can it serve?"""

from __future__ import annotations

from fastapi import APIRouter, Request

from api.dependencies import Wired, ready
from api.openapi import problems
from api.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="healthz", responses=problems())
async def healthz() -> Health:
    """The process lives. Asks nobody else, so that a database at rest restarts no server."""
    return Health()


@router.get("/readyz", operation_id="readyz", responses=problems(503))
def readyz(request: Request, wiring: Wired) -> Health:
    """The database answers and is at this version's schema."""
    ready(wiring)
    return Health()
