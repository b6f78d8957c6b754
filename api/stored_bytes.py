"""Answers that carry a stored file: from this machine's disk, from elsewhere by a signed URL, or through this process.

A Range that cannot be read is ignored and one beyond the end is a problem+json (RFC 9110 §14.2, §15.5.17); an If-Range
by date is never trusted: bytes may change within a second.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.conditional import strong_etag
from api.errors import problem
from workers.contracts.store import Streamed

_RANGES = re.compile(r"bytes\s*=\s*(\d*-\d*(?:\s*,\s*\d*-\d*)*)", re.IGNORECASE)
_MEDIA_TYPES = {".json": "application/json", ".txt": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8"}
"""Anything else is plain bytes: no browser shall guess, let alone run, what a job wrote."""


@dataclass(frozen=True)
class Described:
    """What is told of a file, however its bytes come."""

    name: str
    sha256: str
    size_bytes: int

    @property
    def etag(self) -> str:
        """Its version: equal tags mean equal bytes."""
        return strong_etag(self.sha256)

    @property
    def media_type(self) -> str:
        """How a browser may show it."""
        return _MEDIA_TYPES.get(Path(self.name).suffix, "application/octet-stream")

    @property
    def headers(self) -> dict[str, str]:
        """ETag and digest."""
        digest = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        return {"ETag": self.etag, "Repr-Digest": f"sha-256=:{digest}:"}


class FromDisk(FileResponse):
    """A file of this machine. Starlette does the ranges; this settles which headers it may see."""

    def __init__(self, described: Described, file: Path, found: os.stat_result) -> None:
        super().__init__(
            file,
            headers=described.headers,
            media_type=described.media_type,
            filename=described.name,
            stat_result=found,
        )
        self.described = described

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fitting = _wanted(scope, self.described)
        if fitting is None:
            await _beyond_the_end(scope, self.described)(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        if fitting:
            kept.append((b"range", ("bytes=" + ",".join(f"{first}-{last}" for first, last in fitting)).encode()))
        await super().__call__({**scope, "headers": kept}, receive, send)


def from_elsewhere(scope: Scope, described: Described, url: str) -> Response:
    """Sends the caller to a signed URL, where ranges are possible too; a HEAD is answered here."""
    if _wanted(scope, described) is None:
        return _beyond_the_end(scope, described)
    if scope["method"] == "HEAD":
        return _headers_alone(described)
    return Response(status_code=HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": url, "Cache-Control": "no-store"})


def through_here(scope: Scope, described: Described, streamed: Streamed) -> Response:
    """The bytes piece by piece; of several ranges none, for the whole file may always be sent instead."""
    fitting = _wanted(scope, described)
    if fitting is None:
        return _beyond_the_end(scope, described)
    if scope["method"] == "HEAD":
        return _headers_alone(described)
    size_bytes, status, first, last = described.size_bytes, HTTPStatus.OK, 0, described.size_bytes - 1
    told = _told(described)
    if len(fitting) == 1:
        first, last = fitting[0]
        status = HTTPStatus.PARTIAL_CONTENT
        told["Content-Range"] = f"bytes {first}-{last}/{size_bytes}"
    told["Content-Length"] = str(last - first + 1)
    return StreamingResponse(streamed.read(first, last - first + 1), status, told, described.media_type)


def _told(described: Described) -> dict[str, str]:
    name = described.name
    plain = name if name.isascii() and '"' not in name else None
    disposition = f'attachment; filename="{plain}"' if plain else f"attachment; filename*=UTF-8''{quote(name)}"
    return {**described.headers, "Accept-Ranges": "bytes", "Content-Disposition": disposition}


def _headers_alone(described: Described) -> Response:
    told = {**_told(described), "Content-Length": str(described.size_bytes)}
    return Response(headers=told, media_type=described.media_type)


def _beyond_the_end(scope: Scope, described: Described) -> Response:
    told: Mapping[str, str] = {"Content-Range": f"bytes */{described.size_bytes}", "ETag": described.etag}
    detail = f"The file has {described.size_bytes} bytes; ask for a range within them."
    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    return problem(scope, status, detail, code="range_not_satisfiable", headers=told)


def _wanted(scope: Scope, described: Described) -> list[tuple[int, int]] | None:
    """The ranges to send, first and last byte; empty if all of the file is to be sent, None if none is within it."""
    asked = Headers(scope=scope)
    ranges = _ranges(asked.get("range", ""))
    if not ranges or asked.get("if-range", described.etag) != described.etag:
        return []
    return [_within(each, described.size_bytes) for each in ranges if _fits(each, described.size_bytes)] or None


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


def _within(asked: tuple[str, str], size_bytes: int) -> tuple[int, int]:
    first, last = asked
    if not first:
        return max(size_bytes - int(last), 0), size_bytes - 1
    return int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1
