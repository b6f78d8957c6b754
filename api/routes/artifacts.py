"""What a job or a search left, over HTTP: the manifest, and the files with ranges and digests."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path as FilePath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from api.conditional import already_has, strong_etag
from api.dependencies import JobId, SearchId, Wired, Wiring, caller
from api.errors import problem
from api.openapi import problems
from api.owners import JOB, SEARCH, Owner
from api.schemas import Artifact, ArtifactList, instant
from service import retention
from service.artifacts import catalog
from service.database import tables
from service.errors import NotFound

router = APIRouter(tags=["artifacts"], dependencies=[Depends(caller)])

_RANGES = re.compile(r"bytes\s*=\s*(\d*-\d*(?:\s*,\s*\d*-\d*)*)", re.IGNORECASE)
_MEDIA_TYPES = {".json": "application/json", ".txt": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8"}
"""Anything else is plain bytes: no browser shall guess, let alone run, what a job wrote."""

_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_TEXT = {"schema": {"type": "string"}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        **_BYTES,
        "headers": {
            "ETag": {"description": "The file's SHA-256.", **_TEXT},
            "Repr-Digest": {"description": "The whole file's digest (RFC 9530).", **_TEXT},
            "Accept-Ranges": {"description": "`bytes`.", **_TEXT},
        },
    },
    206: {"description": "The ranges asked for.", **_BYTES},
    304: {"description": "You have the file already."},
}


_MANIFEST = problems(401, 404, 503)
_DOWNLOAD = problems(401, 404, 416, 503) | _FILE


@dataclass(frozen=True)
class File:
    """Which file a request asks for, and what of it."""

    request: Request
    path: Annotated[str, Path(description="As the manifest names it, such as `model/config.json`.")]
    if_none_match: Annotated[str | None, Header(description="ETag that you have.")] = None
    range: Annotated[str | None, Header(description="Such as `bytes=1000-`.")] = None
    if_range: Annotated[str | None, Header(description="Ranges only of this ETag.")] = None


Asked = Annotated[File, Depends()]


@router.get(JOB.root + "/{job_id}/artifacts", operation_id="list_artifacts", responses=_MANIFEST)
def of_job(wiring: Wired, job_id: JobId) -> ArtifactList:
    """Every file that the job left, with size and digest."""
    return _manifest(wiring, JOB, job_id)


@router.get(SEARCH.root + "/{search_id}/artifacts", operation_id="list_search_artifacts", responses=_MANIFEST)
def of_search(wiring: Wired, search_id: SearchId) -> ArtifactList:
    """Every file that the search left, with size and digest: of the trials that its `keep` names."""
    return _manifest(wiring, SEARCH, search_id)


def _manifest(wiring: Wiring, owner: Owner, owner_id: str) -> ArtifactList:
    retention.hold(wiring.database, owner_id)  # whoever asks for the list is about to ask for the files
    with wiring.database.reading() as session:
        owner.find(session, owner_id)
        rows = catalog.manifest(session, owner_id)
        return ArtifactList(data=[_answer(row, owner) for row in rows], has_more=False)


@router.head(JOB.root + "/{job_id}/artifacts/{path:path}", include_in_schema=False)
@router.get(
    JOB.root + "/{job_id}/artifacts/{path:path}",
    operation_id="download_artifact",
    response_class=FileResponse,
    responses=_DOWNLOAD,
)
def download_of_job(wiring: Wired, job_id: JobId, asked: Asked) -> Response:
    """One file. Interrupted downloads resume with `Range` and `If-Range`."""
    return _download(wiring, JOB, job_id, asked)


@router.head(SEARCH.root + "/{search_id}/artifacts/{path:path}", include_in_schema=False)
@router.get(
    SEARCH.root + "/{search_id}/artifacts/{path:path}",
    operation_id="download_search_artifact",
    response_class=FileResponse,
    responses=_DOWNLOAD,
)
def download_of_search(wiring: Wired, search_id: SearchId, asked: Asked) -> Response:
    """One file that a search left. Interrupted downloads resume with `Range` and `If-Range`."""
    return _download(wiring, SEARCH, search_id, asked)


def _download(wiring: Wiring, owner: Owner, owner_id: str, asked: File) -> Response:
    retention.hold(wiring.database, owner_id)
    with wiring.database.reading() as session:
        owner.find(session, owner_id)
        if not _is_plain(asked.path):
            raise NotFound(f"The {owner.word} has no file of this name; see {owner.root}/{owner_id}/artifacts.")
        row = catalog.find(session, owner_id, asked.path)
        sha256, name = row.sha256, row.path.rsplit("/", 1)[-1]
    etag = strong_etag(sha256)
    if already_has(asked.if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    file = wiring.store.path_of(sha256)
    try:
        found = os.stat(file)
    except FileNotFoundError:
        detail = f"The bytes of {asked.path} ({sha256}) are missing from the artifact store; tell its operator."
        return problem(asked.request.scope, HTTPStatus.INTERNAL_SERVER_ERROR, detail, code="artifact_missing")
    return StoredFile(file, name, sha256, found)


class StoredFile(FileResponse):
    """A file named by its digest. Starlette does the ranges; this settles which headers it may see.

    A Range that cannot be read is ignored and one beyond the end is a problem+json (RFC 9110 §14.2, §15.5.17), where
    Starlette would answer both in plain text; an If-Range by date is never trusted: bytes may change within a second.
    """

    def __init__(self, file: FilePath, name: str, sha256: str, found: os.stat_result) -> None:
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        super().__init__(
            file,
            headers={"ETag": strong_etag(sha256), "Repr-Digest": f"sha-256=:{digest}:"},
            media_type=_MEDIA_TYPES.get(FilePath(name).suffix, "application/octet-stream"),
            filename=name,
            stat_result=found,
        )
        self.size_bytes = found.st_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope)
        ranges = _ranges(asked.get("range", ""))
        by_other_version = asked.get("if-range", self.headers["etag"]) != self.headers["etag"]
        if not ranges or by_other_version:
            headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
            await super().__call__({**scope, "headers": headers}, receive, send)
            return
        fitting = [each for each in ranges if _fits(each, self.size_bytes)]
        if not fitting:
            told = {"Content-Range": f"bytes */{self.size_bytes}", "ETag": self.headers["etag"]}
            detail = f"The file has {self.size_bytes} bytes; ask for a range within them."
            status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            refusal = problem(scope, status, detail, code="range_not_satisfiable", headers=told)
            await refusal(scope, receive, send)
            return
        others = [(name, value) for name, value in scope["headers"] if name != b"range"]
        told_range = "bytes=" + ",".join(f"{first}-{last}" for first, last in fitting)
        await super().__call__({**scope, "headers": [*others, (b"range", told_range.encode())]}, receive, send)


def _ranges(header: str) -> list[tuple[str, str]]:
    """The ranges of a header, or none if it is not well-formed."""
    matched = _RANGES.fullmatch(header.strip())
    if matched is None or len(header) > 1024:
        return []
    ranges = [(first, last) for first, _, last in (part.strip().partition("-") for part in matched.group(1).split(","))]
    is_sound = all((first or last) and not (first and last and int(first) > int(last)) for first, last in ranges)
    return ranges if is_sound else []


def _fits(asked: tuple[str, str], size_bytes: int) -> bool:
    first, last = asked
    return int(first) < size_bytes if first else int(last) > 0 and size_bytes > 0


def _is_plain(path: str) -> bool:
    return path.isprintable() and len(path) <= 512


def _answer(row: tables.Artifact, owner: Owner) -> Artifact:
    return Artifact(
        path=row.path,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        href=f"{owner.root}/{row.job_id}/artifacts/{quote(row.path)}",
        created_at=instant(row.created_at),
    )
