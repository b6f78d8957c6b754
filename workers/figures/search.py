"""Figures of a search: the first objective along each field, frontiers, parallel coordinates, its course, its rungs.

    search_figures(search: Search, rows: Sequence[TrialRow], only: str | None = None) -> dict[str, Figure]
        by file name without ending; what has nothing to draw is left out; `only` draws the one of that name
    write_search_figures(search: Search, rows: Sequence[TrialRow], folder: Path) -> list[Path]
        each as SVG and as PNG; the folder must exist

Rows come from `workers.searching.table`: `rows_of(search, record)`, or `row_of_wire(search, trial, since)` of each
Trial object. Import this module where figures are wanted and not before: matplotlib takes a second to load.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from workers.contracts.metrics import Objective
from workers.contracts.search import Search
from workers.figures.by_field import by_field
from workers.figures.comparison import file_name
from workers.figures.frontier import frontier_figure
from workers.figures.measures import measure_of
from workers.figures.parallel import parallel_coordinates
from workers.figures.progress import by_ending, over_time
from workers.figures.rendering import UNDRAWABLE, saved
from workers.figures.rungs import at_rungs
from workers.figures.style import styled
from workers.figures.varied import varied_fields
from workers.searching.row import TrialRow
from workers.searching.table import SearchTable

Drawing = Callable[[], Figure | None]

log = logging.getLogger(__name__)


def search_figures(search: Search, rows: Sequence[TrialRow], only: str | None = None) -> dict[str, Figure]:
    """The figures that the trials allow, by file name without ending. One that cannot be drawn is logged.

    Args:
        only: draw the figure of this name alone.
    """
    figures = {}
    with styled():
        for name, draw in _drawings(SearchTable(search.title, search, rows)):
            if only not in (None, name):
                continue
            try:
                figure = draw()
            except UNDRAWABLE:
                log.exception("the search's figure %s cannot be drawn", name)
                continue
            if figure is not None:
                figures[name] = figure
    return figures


def write_search_figures(search: Search, rows: Sequence[TrialRow], folder: Path) -> list[Path]:
    """Write every figure that the trials allow into a folder, as SVG and as PNG. One that cannot be is logged."""
    files = []
    for name, figure in search_figures(search, rows).items():
        try:
            files += saved({name: figure}, folder)
        except UNDRAWABLE:
            log.exception("the search's figure %s cannot be rendered", name)
    return files


def _drawings(table: SearchTable) -> Iterator[tuple[str, Drawing]]:
    """Names of files, and how to draw what is in them."""
    fields = varied_fields(table)
    first, *others = [measure_of(each, table.rows) for each in table.search.objectives]
    if not others:
        others = [measure_of(Objective(metric="parameters"), table.rows)]
    for field in fields:
        yield f"{file_name(first.metric)}_by_{file_name(field.title)}", partial(by_field, table, first, field, fields)
    for other in others:
        if other.metric != first.metric:
            name = f"{file_name(first.metric)}_against_{file_name(other.metric)}"
            yield name, partial(frontier_figure, table, first, other)
    every = [measure_of(each, table.rows) for each in table.search.objectives]
    yield "parallel_coordinates", partial(parallel_coordinates, table, every, fields)
    yield f"{file_name(first.metric)}_by_ending", partial(by_ending, table, first)
    yield f"{file_name(first.metric)}_over_time", partial(over_time, table, first)
    yield "loss_at_rungs", partial(at_rungs, table, fields)
