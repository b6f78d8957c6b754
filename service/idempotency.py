"""One idempotency key, one answer: kept in the transaction of what it answers, for a day at least."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.database import locks
from service.database.clock import database_now
from service.database.tables import IdempotencyKey
from service.errors import IdempotencyMismatch

_KEPT_SECONDS = 48 * 3600.0


def claim(session: Session, key: str) -> None:
    """Have the key to oneself: whoever else asks under it waits until this transaction ends, and sees its answer."""
    locks.hold(session, f"idempotency:{key}")


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
    is_old = IdempotencyKey.created_at < database_now() - _KEPT_SECONDS
    # Those that another request forgets just now are left to it: two that waited for each other would be a deadlock.
    old = select(IdempotencyKey.key).where(is_old).with_for_update(skip_locked=True)
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.key.in_(old)))
    session.add(IdempotencyKey(key=key, body_sha256=body_sha256, answer=answer))
    session.flush()
