"""Which database URLs are taken, and what is said of others."""

import pytest
from pydantic import ValidationError

from service.database.address import address_of, is_sqlite
from service.settings import Settings


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_however_it_is_written(scheme: str) -> None:
    address = address_of(f"{scheme}://me:secret@db.example:5433/dress?sslmode=require")
    assert address.drivername == "postgresql+psycopg" and address.password == "secret"
    assert (address.host, address.port, address.database, address.query) == (
        "db.example", 5433, "dress", {"sslmode": "require"},
    )  # fmt: skip
    assert not is_sqlite(address)


def test_a_file() -> None:
    address = address_of("sqlite:////var/lib/dress.sqlite3")
    assert address.database == "/var/lib/dress.sqlite3" and is_sqlite(address)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://me:secret@db/dress",
        "postgresql+asyncpg://me:secret@db/dress",
        "postgresql://me:secret@db",
        "postgresql://me:secret@db:port/dress",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_what_no_database_is_known_for(url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ValidationError, match="postgresql://USER:PASSWORD@HOST/DATABASE") as refused:
        Settings(state_dir=tmp_path_factory.getbasetemp(), database_url=url)
    assert "database_url" in str(refused.value) and "secret" not in str(refused.value)
