"""One idempotency key, one answer: kept in the transaction of what it answers, for a day at least."""

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.database.clock import database_now
from service.database.tables import IdempotencyKey
from service.errors import IdempotencyMismatch

_KEPT_SECONDS = 48 * 3600.0


def replay(session: Session, key: str, body_sha256: str) -> str | None:
    """The answer that this key was given, or None if it is new.

    Raises:
        IdempotencyMismatch: the key was used with another body.
    """
    known = session.get(IdempotencyKey, key)
    if known is None:
        return None
    if known.body_sha256 != body_sha256:
        raise IdempotencyMismatch("this Idempotency-Key was used with another body; send a new key with a new request")
    return known.answer


def remember(session: Session, key: str, body_sha256: str, answer: str) -> None:
    """Keep an answer for the next time, and forget those that are old."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < database_now() - _KEPT_SECONDS))
    session.add(IdempotencyKey(key=key, body_sha256=body_sha256, answer=answer))
    session.flush()
