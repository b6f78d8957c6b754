"""`dress migrate`: creates the database or brings it to this version's schema."""

import sys

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from service.database.schema import upgrade
from service.database.session import Database
from service.errors import ServiceError
from service.settings import Settings


def main() -> int:
    """Migrate the database that the environment names; the exit status."""
    try:
        settings = Settings.from_environment()
        database = Database(settings.database_url)
        revision = upgrade(database)
    except DBAPIError as error:
        print(f"dress migrate: the database refuses or does not answer: {error.orig}", file=sys.stderr)
        return 1
    except (ValidationError, ServiceError, SQLAlchemyError, OSError) as error:
        print(f"dress migrate: {error}", file=sys.stderr)
        return 1
    database.dispose()
    print(f"the database is at revision {revision}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
