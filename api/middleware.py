"""What surrounds every request, as plain ASGI: its name, the largest body, the hosts that may be addressed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from http import HTTPStatus

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from api.errors import problem

MAX_BODY_BYTES = 1024 * 1024
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestName:
    """Gives each request an id (the caller's, if it sent a decent one) and tells it in every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        theirs = Headers(scope=scope).get("x-request-id", "")
        name = theirs if _ACCEPTED_ID.fullmatch(theirs) else f"req_{ULID()}"
        # A dict of this request's own: the one in the scope may be shared with the lifespan.
        scope["state"] = {**scope.get("state", {}), "request_id": name}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "private, no-cache")
            await send(message)

        await self.app(scope, receive, named)


class LargestBody:
    """Refuses bodies beyond a size, before reading them where their length is told, else while reading.

    Args:
        streamed: paths whose routes read their bodies piece by piece and count for themselves.
    """

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, streamed: Collection[str] = ()) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.streamed = frozenset(streamed)
        self.detail = f"The body is larger than {max_bytes} bytes; send a smaller one."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.streamed:
            await self.app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and int(told[:20]) > self.max_bytes:
            status, headers = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"Connection": "close"}
            refusal = problem(scope, status, self.detail, code="body_too_large", headers=headers)
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self.detail)
            return message

        await self.app(scope, counted, send)


class KnownHosts:
    """Serves only requests addressed to known hosts: a web page elsewhere cannot reach a
    loopback server by DNS rebinding."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            addressed = _host_of(Headers(scope=scope).get("host", ""))
            if addressed not in self.hosts:
                detail = f"This server does not answer for the host {addressed or '(none)'!r}; use its own address."
                await problem(scope, HTTPStatus.MISDIRECTED_REQUEST, detail)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _host_of(header: str) -> str:
    """The host of a Host header, without its port and an IPv6 address's brackets."""
    matched = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d*)?|([^:\[\]]*)(?::\d*)?", header)
    return (matched.group(1) or matched.group(2)).lower() if matched else ""
