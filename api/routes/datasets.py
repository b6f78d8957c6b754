"""Data sets over HTTP: upload a text, list, look at, delete."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.datasets import Dataset, DatasetList
from api.dependencies import Caller, DatasetId, Wired, Wiring, caller
from api.errors import problem
from api.idempotency import LOCATION, REPLAYED, IdempotencyKey, Made, Repeatable
from api.openapi import problems
from api.schemas import instant
from service import datasets
from service.database import tables
from service.incoming import CheckedText, IncomingText, storing

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(caller)])

_PIECE_BYTES = 1024 * 1024
"""Bytes handed to a thread at once; the network brings smaller pieces."""

_PLAIN_TEXT = re.compile(r'text/plain\s*(;\s*charset="?(utf-?8|us-ascii)"?\s*)?', re.IGNORECASE)

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The text itself, in UTF-8. It is read as it comes and never held in memory as a whole.",
        "content": {
            "text/plain": {
                "schema": {"type": "string", "minLength": 1},
                "examples": {"text": {"value": "The first paragraph.\n\nThe second one.\n"}},
            }
        },
    }
}

Name = Annotated[
    str,
    Query(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="What to call it, such as the file's name.",
        examples=["support-tickets.txt"],
    ),
]


@router.post(
    "",
    status_code=201,
    response_model=Dataset,
    operation_id="upload_dataset",
    openapi_extra=_BODY,
    responses=problems(401, 413, 415, 422, 503, 507)
    | {
        200: {
            "description": "The same bytes are there already under this name: that data set.",
            "model": Dataset,
            "headers": {**LOCATION, **REPLAYED},
        },
        201: {"description": "The text is kept, durably.", "headers": {**LOCATION, **REPLAYED}},
    },
)
async def upload(
    request: Request, wiring: Wired, key_id: Caller, name: Name, idempotency_key: IdempotencyKey = None
) -> Response:
    """Upload a text for training or evaluation. With an `Idempotency-Key` the request may be repeated.

    The same bytes under another name make another data set, which shares the stored bytes.
    """
    refusal = _other_type(request)
    if refusal is not None:
        return refusal
    try:
        with storing(), wiring.store.uploads.drafting() as draft:
            text = await _received(request, IncomingText(draft, wiring.settings.dataset_most_bytes))
            content = f"{name}\n{text.sha256}".encode()
            root = router.prefix
            repeatable = Repeatable.of(key_id, idempotency_key, root, line=f"POST {root}", content=content)
            return await run_in_threadpool(_kept, wiring, text, name, repeatable)
    except ClientDisconnect:
        log.info("an upload of %r broke off; nothing of it is kept", name)
        return Response(status_code=HTTPStatus.BAD_REQUEST)  # to nobody


def _other_type(request: Request) -> Response | None:
    """The refusal of a body that says it is no plain text; one that says nothing is taken for it."""
    told = request.headers.get("content-type", "text/plain")
    if _PLAIN_TEXT.fullmatch(told.strip()) and "content-encoding" not in request.headers:
        return None
    detail = "Send the text itself with Content-Type: text/plain; charset=utf-8 and without Content-Encoding."
    headers = {"Connection": "close"}  # what is still on its way is not read
    return problem(request.scope, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers=headers)


async def _received(request: Request, incoming: IncomingText) -> CheckedText:
    """The body, checked and written as it comes. Only a piece of it is ever held."""
    told = request.headers.get("content-length", "")
    if told.isdecimal():
        incoming.expect(int(told[:20]))
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) >= _PIECE_BYTES:
            await run_in_threadpool(incoming.take, bytes(held))
            held.clear()
    await run_in_threadpool(incoming.take, bytes(held))
    return await run_in_threadpool(incoming.end)


def _kept(wiring: Wiring, text: CheckedText, name: str, repeatable: Repeatable) -> Response:
    with wiring.database.writing() as session:
        known = repeatable.claimed(session)
        if known is not None:
            return known
        row, is_new = datasets.keep(session, text, name)
        status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
        made = Made(row.id, dataset_answer(row).model_dump_json(), status=status)
        answer = repeatable.remember(session, made)
    return answer


@router.get("", operation_id="list_datasets", responses=problems(401, 404, 422, 503))
def listing(
    wiring: Wired,
    limit: Annotated[int, Query(ge=1, le=200, description="Data sets at most.")] = 50,
    after: Annotated[str | None, Query(max_length=64, description="Id of the last data set you have.")] = None,
    name: Annotated[str | None, Query(max_length=255, description="Only data sets of this name.")] = None,
    sha256: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="Only of these bytes.")] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Only data sets created later.")] = None,
) -> DatasetList:
    """Data sets, newest first."""
    with wiring.database.reading() as session:
        rows, has_more = datasets.listing(
            session,
            limit=limit,
            after=after,
            name=name,
            sha256=sha256,
            created_after=created_after.timestamp() if created_after else None,
        )
        return DatasetList(data=[dataset_answer(row) for row in rows], has_more=has_more)


@router.get("/{dataset_id}", operation_id="get_dataset", responses=problems(401, 404, 503))
def get(wiring: Wired, dataset_id: DatasetId) -> Dataset:
    """Look at a data set."""
    with wiring.database.reading() as session:
        return dataset_answer(datasets.get(session, dataset_id))


@router.delete(
    "/{dataset_id}",
    status_code=204,
    operation_id="delete_dataset",
    responses=problems(401, 404, 409, 503) | {204: {"description": "It is gone."}},
)
def delete(wiring: Wired, dataset_id: DatasetId) -> Response:
    """Delete a data set. Refused while a job that refers to it has not ended; what ended jobs say of it stays."""
    wiring.database.write(lambda session: datasets.delete(session, dataset_id))
    # The bytes go once the answer is sent; what fails now is tried again with the next deletion.
    return Response(status_code=204, background=BackgroundTask(datasets.sweep, wiring.database, wiring.store.uploads))


def dataset_answer(row: tables.Dataset) -> Dataset:
    """A data set's row as the wire shows it."""
    return Dataset(
        id=row.id, created_at=instant(row.created_at), name=row.name, size_bytes=row.size_bytes, sha256=row.sha256
    )
