"""Requests that may be repeated: under one `Idempotency-Key` one thing is made, and the first answer is given again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Self, TypeVar

from fastapi import Header, Request, Response
from sqlalchemy.orm import Session

from api.conditional import strong_etag
from api.dependencies import Wiring
from service import idempotency

Ready = TypeVar("Ready")

_TEXT = {"schema": {"type": "string"}}
ETAG = {"ETag": {"description": "The version.", **_TEXT}}
LOCATION = {"Location": {"description": "Path of what was made.", **_TEXT}}
REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true` if this answer was first given to an earlier request with the same key.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of yours, kept for a day or more: the same key and body get the first answer again.",
    ),
]


async def body_bytes(request: Request) -> bytes:
    """The body as it came over the wire."""
    return await request.body()


@dataclass(frozen=True)
class Made:
    """What a request made, and what is answered to it, however often it comes."""

    id: str
    body: str
    """In JSON."""
    version: int | None = None
    """For the ETag, of things that change."""
    status: int = HTTPStatus.CREATED


@dataclass(frozen=True)
class Repeatable:
    """A request that makes something, told from others by key and content."""

    root: str
    """Path under which the thing is found by its id."""
    digest: str
    key: str | None
    """None: the caller sent no key, so that every request is a new one."""

    @classmethod
    def of(cls, key_id: str, idempotency_key: str | None, root: str, *, line: str, content: bytes) -> Self:
        """The request of a caller.

        Args:
            key_id: of the API key; keys of one caller never meet those of another.
            line: method and path.
            content: what must be equal in a repetition.
        """
        digest = hashlib.sha256(line.encode() + b"\n" + content).hexdigest()
        return cls(root, digest, None if idempotency_key is None else f"{key_id}:{idempotency_key}")

    def earlier(self, session: Session) -> Response | None:
        """The answer that was given before.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        known = None if self.key is None else idempotency.replay(session, self.key, self.digest)
        return None if known is None else self._answered(known, replayed=True)

    def claimed(self, session: Session) -> Response | None:
        """As `earlier`, in a transaction that writes: requests under one key come one after the other.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        if self.key is not None:
            idempotency.claim(session, self.key)
        return self.earlier(session)

    def remember(self, session: Session, made: Made) -> Response:
        """The answer, kept in the transaction of what it answers. Send it after the commit: 201 means durable."""
        etag = None if made.version is None else strong_etag(made.version)
        kept = {"status": made.status, "id": made.id, "etag": etag, "body": made.body}
        answer = json.dumps({name: value for name, value in kept.items() if value is not None})
        if self.key is not None:
            idempotency.remember(session, self.key, self.digest, answer)
        return self._answered(answer, replayed=False)

    def _answered(self, answer: str, *, replayed: bool) -> Response:
        kept: dict[str, Any] = json.loads(answer)
        headers = {"Location": f"{self.root}/{kept['id']}"}
        if "etag" in kept:
            headers["ETag"] = kept["etag"]
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        # Answers that an earlier version of jobs kept tell no status.
        return Response(kept["body"], kept.get("status", HTTPStatus.CREATED), headers, "application/json")


def made_once(
    wiring: Wiring, wanted: Repeatable, prepare: Callable[[], Ready], make: Callable[[Session, Ready], Made]
) -> Response:
    """Make what is wanted, unless that was done before.

    Args:
        prepare: all that takes time, such as a look at files; no transaction is held meanwhile.
        make: writes it; done once more where the database took the transaction back.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    if wanted.key is not None:  # an answer once given stands, whatever became of the files
        with wiring.database.reading() as session:
            known = wanted.earlier(session)
        if known is not None:
            return known
    ready = prepare()

    def write(session: Session) -> Response:
        return wanted.claimed(session) or wanted.remember(session, make(session, ready))

    return wiring.database.write(write)
