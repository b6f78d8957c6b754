"""Has the database itself write down, by triggers, who takes which lease and what becomes of jobs, attempts and events.

What the service's code says of itself could share its bugs; a trigger sees every change, in its own transaction.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Artifact, Attempt, Event, Job
from tests.faults.history import History

_COLUMNS = "what, subject, before, after, until, at"
_TABLE = """CREATE TABLE campaign_audit (
    id {serial}, what TEXT, subject TEXT, before TEXT, after TEXT, until DOUBLE PRECISION, at DOUBLE PRECISION)"""
_WATCHED = {
    "lease_taken": (
        "UPDATE", "jobs",
        "OLD.status IN ('running', 'pausing', 'cancelling') AND NEW.lease_token <> OLD.lease_token",
        "NEW.id, OLD.lease_owner, NEW.lease_owner, OLD.lease_expires_at",
    ),
    "status": ("UPDATE", "jobs", "OLD.status <> NEW.status", "NEW.id, OLD.status, NEW.status, NULL"),
    "outcome": (
        "UPDATE", "attempts", "COALESCE(OLD.outcome, '') <> COALESCE(NEW.outcome, '')",
        "NEW.id, OLD.outcome, NEW.outcome, NULL",
    ),
    "event_edited": ("UPDATE", "events", "OLD.id = NEW.id", "OLD.job_id, OLD.type, NEW.type, NULL"),
    "event_removed": ("DELETE", "events", "OLD.id = OLD.id", "OLD.job_id, OLD.type, NULL, NULL"),
}  # fmt: skip
"""By what is written down: the event, the table, the condition, and subject, before, after, until."""


def watch(database: Database) -> None:
    """Begin."""
    is_postgresql = database.is_postgresql
    serial = "BIGSERIAL PRIMARY KEY" if is_postgresql else "INTEGER PRIMARY KEY AUTOINCREMENT"
    with database.connection() as connection:
        connection.exec_driver_sql(_TABLE.format(serial=serial))
        now = str(database_now().compile(dialect=connection.dialect))
        for what, (change, table, condition, values) in _WATCHED.items():
            insert = f"INSERT INTO campaign_audit ({_COLUMNS}) VALUES ('{what}', {values}, {now})"
            head = f"CREATE TRIGGER campaign_{what} AFTER {change} ON {table} FOR EACH ROW WHEN ({condition})"
            if is_postgresql:
                connection.exec_driver_sql(
                    f"CREATE FUNCTION campaign_{what}() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$ BEGIN {insert}; RETURN NULL; END $$"
                )
                connection.exec_driver_sql(f"{head} EXECUTE FUNCTION campaign_{what}()")
            else:
                connection.exec_driver_sql(f"{head} BEGIN {insert}; END")


def read_out(database: Database, history: History) -> None:
    """Write down all that the database holds at the end."""
    with database.reading() as session:
        for table in (Job, Attempt, Event, Artifact):
            for row in session.scalars(select(table)):
                history.add("row", table=table.__tablename__, **_plain(row))
        _read_audit(session, history)


def _read_audit(session: Session, history: History) -> None:
    rows = session.connection().exec_driver_sql(f"SELECT {_COLUMNS} FROM campaign_audit ORDER BY id")
    for what, subject, before, after, until, at in rows:
        history.add("audit", change=what, subject=subject, before=before, after=after, until=until, moment=at)


def _plain(row: Any) -> dict[str, Any]:
    """A row by its attributes' names; `at` is the history's own word."""
    names = [each.key for each in row.__mapper__.column_attrs]
    return {"moment" if name == "at" else name: getattr(row, name) for name in names}
