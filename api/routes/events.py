"""A job's events over HTTP: as a list, or followed as they happen (server-sent events)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.dependencies import JobId, Wired, Wiring, caller
from api.openapi import problems
from api.schemas import FINAL_STATUSES, Event, EventList, instant
from service import events, jobs
from service.database import tables

router = APIRouter(prefix="/v1/jobs", tags=["events"], dependencies=[Depends(caller)])

PAGE = 200
"""Events that a stream reads at once."""

COMMENT_SECONDS = 15.0
"""A stream is never silent for longer, so that nobody on the way takes it for dead."""

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The events; a stream of them if you accept `text/event-stream`.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: progress\ndata: {"number": 43, "type": "progress", "body": {}}\nid: 43\n\n',
            }
        },
    },
    204: {"description": "To a request for a stream: the job is final and you have all its events. Do not reconnect."},
}

_Number = Annotated[int, Query(ge=0, le=2**53, description="Number of the last event that you have.")]


@router.get(
    "/{job_id}/events",
    operation_id="list_events",
    response_model=EventList,
    responses=problems(401, 404, 422, 503) | _STREAM,
)
def listing(
    request: Request,
    wiring: Wired,
    job_id: JobId,
    after: _Number = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events at most; a stream has no limit.")] = 200,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=2**53, description="As `after`, sent by clients that resume a stream.")
    ] = None,
) -> EventList | Response:
    """What happened to a job, oldest first. With `Accept: text/event-stream` the answer goes on while things happen:
    each event's number is its `id:`, its type its `event:`; the stream ends after the job's final event."""
    if not _wants_stream(request.headers.get("accept", "")):
        found, _ = _read(wiring, job_id, after, limit + 1)
        return EventList(data=found[:limit], has_more=len(found) > limit)
    start = after if last_event_id is None else last_event_id
    found, is_final = _read(wiring, job_id, start, 1)
    if is_final and not found:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(wiring, job_id, start), headers=headers, media_type="text/event-stream")


async def _stream(wiring: Wiring, job_id: str, after: int) -> AsyncIterator[bytes]:
    """The job's events beyond `after`, each once, in order, until the job is final or the server closes."""
    loop = asyncio.get_running_loop()
    yield format_sse_event(comment=f"following {job_id}", retry=1000)
    spoken_at = loop.time()
    with wiring.tail.follow(job_id) as follower:
        while not wiring.tail.closing:
            found, is_final = await run_in_threadpool(_read, wiring, job_id, after, PAGE)
            for event in found:
                yield format_sse_event(data_str=event.model_dump_json(), event=event.type, id=str(event.number))
                after, spoken_at = event.number, loop.time()
            if len(found) == PAGE:
                continue
            if is_final:
                return
            silence_left = spoken_at + COMMENT_SECONDS - loop.time()
            if silence_left <= 0:
                yield format_sse_event(comment="still here")
                spoken_at = loop.time()
            else:
                await follower.wait(silence_left)


def _read(wiring: Wiring, job_id: str, after: int, limit: int) -> tuple[list[Event], bool]:
    """Events beyond `after`, and whether the job was final when they were read: then there is nothing beyond them."""
    with wiring.database.reading() as session:
        job = jobs.get(session, job_id)
        found = [_answer(row) for row in events.listing(session, job_id, after=after, limit=limit)]
        return found, job.status in FINAL_STATUSES


def _answer(row: tables.Event) -> Event:
    return Event(
        id=f"evt_{row.job_id.removeprefix('job_')}_{row.number:08d}",
        job_id=row.job_id,
        number=row.number,
        type=row.type,
        created_at=instant(row.at),
        attempt_id=row.attempt_id,
        body=row.body,
    )


def _wants_stream(accept: str) -> bool:
    """Whether the caller named event streams; whoever accepts just anything gets the list."""
    kinds = [part.split(";") for part in accept.lower().split(",")]
    return any(kind[0].strip() == "text/event-stream" and "q=0" not in "".join(kind[1:]).split() for kind in kinds)
