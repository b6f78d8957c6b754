"""Locks on what has no row yet, such as an idempotency key that is new; and transactions that hold theirs for long."""

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session


def hold(session: Session, name: str) -> None:
    """Wait for every other transaction that holds this name; the name is then ours until this one ends.

    SQLite needs none of it: it has one writer at a time.
    """
    if _is_postgresql(session):
        # Two names of one hash wait for each other without need, and come to no harm.
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def allow_silence(session: Session, seconds: int) -> None:
    """Let this transaction wait so long for something else than the database, such as a store far away, before it is
    taken for dead. Its locks should be ones that few wait for."""
    if _is_postgresql(session):
        session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{seconds}s'"))


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"
