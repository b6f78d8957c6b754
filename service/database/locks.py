"""Locks on what has no row yet, such as an idempotency key that is new."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session


def hold(session: Session, name: str) -> None:
    """Wait for every other transaction that holds this name; the name is then ours until this one ends.

    SQLite needs none of it: it has one writer at a time.
    """
    if session.get_bind().dialect.name == "postgresql":
        # Two names of one hash wait for each other without need, and come to no harm.
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
