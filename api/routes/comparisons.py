"""Comparisons over HTTP: jobs side by side in one table, and the figures drawn from it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field

from api.comparisons import MOST_IDS, MOST_LABELS, FigureList, FigureName
from api.dependencies import Wired, Wiring, caller
from api.errors import invalid_request, problem
from api.openapi import problems
from api.schemas import ProblemItem
from service import comparisons
from workers.comparison.comparison import Comparison, TableForm

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(caller)])

_drawing = threading.Lock()
"""The style of a figure is the process's own while it is drawn."""

_TYPES = {"markdown": "text/markdown; charset=utf-8", "csv": "text/csv; charset=utf-8"}
_TEXT = {"schema": {"type": "string"}}
_BYTES = {"schema": {"type": "string", "contentEncoding": "binary"}}
_FIGURE_TYPES = {"svg": "image/svg+xml", "png": "image/png"}

JobIds = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64)]],
    Query(alias="id", max_length=MOST_IDS, description="A job's id; repeat it. The rows keep this order."),
]
Labels = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=130)]],
    Query(
        alias="label",
        max_length=MOST_LABELS,
        description="All jobs with this label, `name=value`; repeat it for more. `study=NAME` gives a study: of each "
        "of its rows the newest job, in the order of its table.",
    ),
]
Sort = Annotated[
    str | None,
    Query(
        max_length=200,
        description="A column by whose figures the rows are put in order, such as `parameters`; `-` before it puts the "
        "greatest first. Rows without the figure come last.",
    ),
]


@router.get(
    ":compare",
    operation_id="compare_jobs",
    response_model=Comparison,
    responses=problems(401, 404, 422, 503)
    | {200: {"description": "One table.", "content": {"text/markdown": _TEXT, "text/csv": _TEXT}}},
)
def compare(
    request: Request,
    wiring: Wired,
    ids: JobIds = [],  # noqa: B006  never changed
    labels: Labels = [],  # noqa: B006
    sort: Sort = None,
    form: Annotated[TableForm, Query(alias="format", description="How the table is told.")] = "json",
) -> Comparison | Response:
    """Jobs side by side: quality before and after, true parameters, speed, cost; a row for each, finished or not.

    Figures that were measured otherwise than the rest of their column are marked, and `notes` says how they differ.
    """
    made = _compared(request, wiring, ids, labels, sort)
    if isinstance(made, Response) or form == "json":
        return made
    return Response(made.told(form), media_type=_TYPES[form])


@router.get(
    ":compare/figures",
    operation_id="list_comparison_figures",
    response_model=FigureList,
    responses=problems(401, 404, 422, 503),
)
def figures(
    request: Request,
    wiring: Wired,
    ids: JobIds = [],  # noqa: B006
    labels: Labels = [],  # noqa: B006
) -> FigureList | Response:
    """The figures that these jobs allow: what two or more of them have measured."""
    made = _compared(request, wiring, ids, labels, None)
    if isinstance(made, Response):
        return made
    query = f"?{request.url.query}"
    return FigureList(data=[FigureName.of(name, query) for name in _names(made)], has_more=False)


@router.get(
    ":compare/figures/{name}.{form}",
    operation_id="get_comparison_figure",
    response_class=Response,
    responses=problems(401, 404, 422, 503)
    | {200: {"description": "The figure.", "content": dict.fromkeys(_FIGURE_TYPES.values(), _BYTES)}},
)
def figure(
    request: Request,
    wiring: Wired,
    name: Annotated[str, Path(max_length=200, description="As the list of figures says it.")],
    form: Annotated[Literal["svg", "png"], Path(description="Scalable, or 200 dots an inch.")],
    ids: JobIds = [],  # noqa: B006
    labels: Labels = [],  # noqa: B006
) -> Response:
    """A figure of these jobs, drawn now."""
    from workers.comparison.drawing import figures_of
    from workers.figures.rendering import rendered  # matplotlib takes a second to load

    made = _compared(request, wiring, ids, labels, None)
    if isinstance(made, Response):
        return made
    with _drawing:
        drawn = figures_of(made.rows)
        if name in drawn:
            return Response(rendered(drawn[name], form), media_type=_FIGURE_TYPES[form])
    there = f"there are {', '.join(drawn)}" if drawn else "too little was measured for any"
    return problem(request.scope, HTTPStatus.NOT_FOUND, f"These jobs have no figure {name!r}: {there}.")


def _names(made: Comparison) -> list[str]:
    from workers.comparison.drawing import figures_of

    with _drawing:
        return list(figures_of(made.rows))


def _compared(
    request: Request, wiring: Wiring, ids: Sequence[str], labels: Sequence[str], sort: str | None
) -> Comparison | Response:
    """The comparison, or what is wrong with the request."""
    if not ids and not labels:
        return _wrong(request, "id", "is required, or a label; name the jobs to compare")
    with wiring.database.reading() as session:
        chosen, missing = comparisons.chosen(session, ids, labels)
        if missing:
            return _unknown(request, missing)
        if len(chosen) > comparisons.MOST_ROWS:
            return _wrong(request, "label", f"picks more than {comparisons.MOST_ROWS} jobs; choose a narrower one")
        try:
            return comparisons.compared(session, chosen, sort)
        except LookupError as error:
            return _wrong(request, "sort", str(error.args[0]))


def _wrong(request: Request, parameter: str, detail: str) -> Response:
    return invalid_request(request.scope, [ProblemItem(parameter=parameter, detail=detail)])


def _unknown(request: Request, missing: Sequence[str]) -> Response:
    items = [ProblemItem(parameter="id", detail=f"there is no job {job_id[:64]!r}") for job_id in missing]
    detail = f"There is no job {missing[0][:64]!r}" + (f" (and {len(missing) - 1} more)." if missing[1:] else ".")
    return problem(request.scope, HTTPStatus.NOT_FOUND, detail, errors=items)
