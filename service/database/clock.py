"""The database's own clock: leases are timed by it, so that no machine's clock need agree with another's."""

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class database_now(FunctionElement[float]):  # noqa: N801  reads as the SQL function it is
    """Seconds since 1970, to the millisecond, when the statement runs."""

    type = Double()
    inherit_cache = True


@compiles(database_now)
def _standard(_element: database_now, _compiler: Any, **_options: Any) -> str:
    # Not CURRENT_TIMESTAMP: that stands still during a transaction.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(database_now, "sqlite")
def _sqlite(_element: database_now, _compiler: Any, **_options: Any) -> str:
    return "ROUND((julianday('now') - 2440587.5) * 86400.0, 3)"
