"""Looking at what changes: at once, or as soon as it is another than the version that the caller has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Protocol, TypeVar

from fastapi import Header, Query, Response
from starlette.concurrency import run_in_threadpool

from api.conditional import already_has, strong_etag
from api.schemas import FINAL_STATUSES
from api.tail import Tail

IfNoneMatch = Annotated[str | None, Header(description="ETag that you have: 304 if it is still in that version.")]
Wait = Annotated[
    float, Query(ge=0, le=60, allow_inf_nan=False, description="Seconds to wait for a change before answering.")
]


class _Stands(Protocol):
    """What has a status."""

    @property
    def status(self) -> str: ...


Body = TypeVar("Body", bound=_Stands)
Look = Callable[[], tuple[Body, int]]
"""Reads the present body and its version."""


async def look(
    tail: Tail, owner_id: str, read: Look[Body], response: Response, if_none_match: str | None, wait: float
) -> Body | Response:
    """What there is; with `wait`, as soon as it differs from the version that the caller has (or from now), or is
    final. 304 if the caller has it already."""
    answer, version = await run_in_threadpool(read)
    stale = if_none_match is not None and not already_has(if_none_match, strong_etag(version))
    if wait and not stale:
        answer, version = await _changed(tail, owner_id, read, version, wait)
    etag = strong_etag(version)
    if already_has(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return answer


async def _changed(tail: Tail, owner_id: str, read: Look[Body], known: int, seconds: float) -> tuple[Body, int]:
    """What there is once its version is another than `known`, or it is final, or the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    with tail.follow(owner_id) as follower:
        while True:
            answer, version = await run_in_threadpool(read)
            left = deadline - loop.time()
            if version != known or answer.status in FINAL_STATUSES or left <= 0 or tail.closing:
                return answer, version
            await follower.wait(left)
