"""The events of a job or a search over HTTP: as a list, or followed as they happen (server-sent events)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse

from api.dependencies import JobId, SearchId, Wired, Wiring, caller
from api.openapi import problems
from api.owners import JOB, SEARCH, Owner
from api.schemas import FINAL_STATUSES, Event, EventList, instant
from service import events
from service.database import tables

router = APIRouter(tags=["events"], dependencies=[Depends(caller)])

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
    204: {"description": "To a request for a stream: it is final and you have all its events. Do not reconnect."},
}
_RESPONSES = problems(401, 404, 422, 503) | _STREAM


@dataclass(frozen=True)
class Part:
    """Which events a request asks for."""

    request: Request
    after: Annotated[int, Query(ge=0, le=2**53, description="Number of the last event that you have.")] = 0
    limit: Annotated[int, Query(ge=1, le=1000, description="Events at most; a stream has no limit.")] = 200
    last_event_id: Annotated[
        int | None, Header(ge=0, le=2**53, description="As `after`, sent by clients that resume a stream.")
    ] = None


Asked = Annotated[Part, Depends()]


@router.get(JOB.root + "/{job_id}/events", operation_id="list_events", response_model=EventList, responses=_RESPONSES)
def of_job(wiring: Wired, job_id: JobId, asked: Asked) -> EventList | Response:
    """What happened to a job, oldest first. With `Accept: text/event-stream` the answer goes on while things happen:
    each event's number is its `id:`, its type its `event:`; the stream ends after the job's final event."""
    return _answered(wiring, JOB, job_id, asked)


@router.get(
    SEARCH.root + "/{search_id}/events",
    operation_id="list_search_events",
    response_model=EventList,
    responses=_RESPONSES,
)
def of_search(wiring: Wired, search_id: SearchId, asked: Asked) -> EventList | Response:
    """What happened to a search and its trials, oldest first; a stream of it as with jobs."""
    return _answered(wiring, SEARCH, search_id, asked)


def _answered(wiring: Wiring, owner: Owner, owner_id: str, asked: Part) -> EventList | Response:
    if not _wants_stream(asked.request.headers.get("accept", "")):
        found, _ = _read(wiring, owner, owner_id, asked.after, asked.limit + 1)
        return EventList(data=found[: asked.limit], has_more=len(found) > asked.limit)
    start = asked.after if asked.last_event_id is None else asked.last_event_id
    found, is_final = _read(wiring, owner, owner_id, start, 1)
    if is_final and not found:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = _stream(wiring, owner, owner_id, start)
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


async def _stream(wiring: Wiring, owner: Owner, owner_id: str, after: int) -> AsyncIterator[bytes]:
    """The events beyond `after`, each once, in order, until their owner is final or the server closes."""
    loop = asyncio.get_running_loop()
    yield format_sse_event(comment=f"following {owner_id}", retry=1000)
    spoken_at = loop.time()
    with wiring.tail.follow(owner_id) as follower:
        while not wiring.tail.closing:
            found, is_final = await wiring.tail.shared(owner_id, after, partial(_page, wiring, owner, owner_id, after))
            for number, told in found:
                yield told
                after, spoken_at = number, loop.time()
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


def _page(wiring: Wiring, owner: Owner, owner_id: str, after: int) -> tuple[list[tuple[int, bytes]], bool]:
    """As `_read`, each event as its number and as a stream tells it."""
    found, is_final = _read(wiring, owner, owner_id, after, PAGE)
    told = [
        format_sse_event(data_str=event.model_dump_json(), event=event.type, id=str(event.number)) for event in found
    ]
    return [(event.number, each) for event, each in zip(found, told, strict=True)], is_final


def _read(wiring: Wiring, owner: Owner, owner_id: str, after: int, limit: int) -> tuple[list[Event], bool]:
    """Events beyond `after`, and whether their owner was final when they were read: then there is nothing beyond."""
    with wiring.database.reading() as session:
        status = owner.find(session, owner_id).status
        found = [_answer(row) for row in events.listing(session, owner_id, after=after, limit=limit)]
        return found, status in FINAL_STATUSES


def _answer(row: tables.Event) -> Event:
    return Event(
        id=f"evt_{row.job_id.partition('_')[2]}_{row.number:08d}",
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
