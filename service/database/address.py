"""The database's address: which databases are known, and how it may be written."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_REMEDY = "write sqlite:////absolute/file or postgresql://USER:PASSWORD@HOST/DATABASE"


def address_of(url: str) -> URL:
    """The address that a URL means; its driver is always named.

    Raises:
        ValueError: no such database is known here. The message names no password.
    """
    try:
        written = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"is no database URL; {_REMEDY}") from None
    if written.drivername not in _DRIVERS:
        raise ValueError(f"no database is known for {written.drivername}://; {_REMEDY}")
    address = written.set(drivername=_DRIVERS[written.drivername])
    if not address.database or address.database == ":memory:":
        raise ValueError(f"names no database; {_REMEDY}")
    return address


def is_sqlite(address: URL) -> bool:
    """Whether it is a file of this machine's."""
    return address.get_backend_name() == "sqlite"
