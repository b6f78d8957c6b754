"""Brings a database to the schema of this version, and says whether this version may work on the one that is there.

An upgrade is a migration first, then new processes one by one. Meanwhile old ones go on, on a schema newer than theirs:
a table lists the revisions whose code may.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text

from service.database.address import is_sqlite
from service.database.session import Database
from service.database.tables import AcceptedRevision
from service.errors import Misconfigured, SchemaOutdated


def upgrade(database: Database) -> str:
    """Run the missing migrations in one transaction; the revision that the database is at. Harmless to repeat or to
    race, also by an older version that may work on what a newer one has made.

    Raises:
        SchemaOutdated: a newer version has made a schema that this one must leave alone.
    """
    file = _file_of(database)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with database.connection() as connection:
        _wait_for_turn(connection)
        current = _current(connection)
        if current is not None and not _is_ours(current):
            _require_accepted(connection, current)
            return current
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return head()


def require_known(database: Database) -> None:
    """Refuse to work on a schema that is older than this version's, or that a newer one made and this one must not
    touch.

    Raises:
        SchemaOutdated: it is so, or there is no database.
    """
    file = _file_of(database)
    if file is not None and not file.is_file():
        raise SchemaOutdated(f"there is no database at {file}; run `dress migrate` first")
    with database.engine.connect() as connection:
        current = _current(connection)
        if current == head():
            return
        if current is None or _is_ours(current):
            raise SchemaOutdated(
                f"the database is at revision {current or 'none'}, this version needs {head()}; run `dress migrate`"
            )
        _require_accepted(connection, current)


def head() -> str:
    """The newest revision that this version knows, which its code is written for."""
    newest = _scripts().get_current_head()
    if newest is None:
        raise Misconfigured("the package lacks its migrations; install it anew")
    return newest


def _wait_for_turn(connection: Connection) -> None:
    """One migration at a time. SQLite's one writer is that already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # another migration may take its time
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('dress migrate', 0))"))
        # But for tables that somebody else keeps locked: a migration that waits there has all others wait behind it.
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))


def _require_accepted(connection: Connection, current: str) -> None:
    accepted: list[str] = []
    if inspect(connection).has_table(AcceptedRevision.__tablename__):
        accepted = list(connection.scalars(select(AcceptedRevision.revision)))
    if head() not in accepted:
        raise SchemaOutdated(
            f"the database is at revision {current}, which this version, of revision {head()}, must leave alone; "
            "start the version that migrated it"
        )


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_ours(revision: str) -> bool:
    return revision in {script.revision for script in _scripts().walk_revisions()}


def _file_of(database: Database) -> Path | None:
    return Path(database.address.database or "") if is_sqlite(database.address) else None


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    # A literal percent sign would be read as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
