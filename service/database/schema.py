"""Brings a database to the schema of this version, or says that it is not there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.database.address import is_sqlite
from service.database.session import Database
from service.errors import Misconfigured, SchemaOutdated


def upgrade(database: Database) -> str:
    """Run the missing migrations in one transaction; the revision reached. Harmless to repeat or to race."""
    file = _file_of(database)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with database.connection() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return _head()


def require_head(database: Database) -> None:
    """Refuse to work on another schema than this version's.

    Raises:
        SchemaOutdated: the database is missing, older or newer.
    """
    file = _file_of(database)
    if file is not None and not file.is_file():
        raise SchemaOutdated(f"there is no database at {file}; run `dress migrate` first")
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != _head():
        raise SchemaOutdated(
            f"the database is at revision {current or 'none'}, this version needs {_head()}; run `dress migrate` "
            "with the newest version in use"
        )


def _file_of(database: Database) -> Path | None:
    return Path(database.address.database or "") if is_sqlite(database.address) else None


def _config() -> Config:
    config = Config()
    # A literal percent sign would be read as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _head() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise Misconfigured("the package lacks its migrations; install it anew")
    return head
