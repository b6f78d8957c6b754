"""The figures of one search, drawn once for all who look at them."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from tests.workers.searching.trials import record, search
from workers.figures.search import search_figures
from workers.searching.table import rows_of


@pytest.fixture(scope="module")
def whole() -> dict[str, Figure]:
    rows = rows_of(search(), record())
    timed = [row.model_copy(update={"ended_seconds": row.ended_as and 600.0 * row.ended_as}) for row in rows]
    return search_figures(search(), timed)
