"""Every error becomes one shape, RFC 9457's problem+json, and one table says with which HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from api.explain import explain, field_pointer
from api.schemas import Problem, ProblemItem
from service.errors import (
    Conflict,
    IdempotencyMismatch,
    InvalidRecipe,
    InvalidText,
    Misconfigured,
    NoRoom,
    NotFound,
    ServiceError,
    StoreSilent,
    TooLarge,
    Unauthenticated,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[ServiceError], HTTPStatus] = {
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    IdempotencyMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidRecipe: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidText: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NoRoom: HTTPStatus.INSUFFICIENT_STORAGE,
    StoreSilent: HTTPStatus.SERVICE_UNAVAILABLE,
    Misconfigured: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The one table: error class -> HTTP status. A class that is not here takes its base's; none is a fault of ours."""

TITLES: Mapping[str, str] = {
    "invalid_recipe": "The recipe cannot be run",
    "invalid_search": "The search cannot be run",
    "invalid_request": "The request is not valid",
    "invalid_text": "The body is no text in UTF-8",
    "storage_full": "There is no room for it",
    "idempotency_mismatch": "The Idempotency-Key was used for another request",
    "unauthenticated": "No valid API key",
    "unavailable": "The service cannot answer now",
    "internal": "The service failed",
}
"""By the error's stable name; other errors take the title of their status."""


class Unready(HTTPException):
    """The server cannot serve at present; asking again later may help."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"})


def request_id(scope: Scope) -> str:
    """The name of this request, given by the outermost middleware."""
    return str(scope.get("state", {}).get("request_id", "req_unknown"))


def problem(
    scope: Scope,
    status: int,
    detail: str,
    *,
    code: str | None = None,
    errors: Sequence[ProblemItem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as the caller sees it."""
    phrase = HTTPStatus(status).phrase
    name = code or phrase.lower().replace(" ", "_").replace("-", "_")
    body = Problem(
        type=f"urn:dress:problem:{name}",
        title=TITLES.get(name, phrase),
        status=status,
        detail=detail,
        errors=list(errors),
        request_id=request_id(scope),
    )
    told = {**(headers or {}), "X-Request-ID": body.request_id, "Cache-Control": "no-store"}
    return Response(body.model_dump_json(exclude_none=True), status, told, MEDIA_TYPE)


def invalid_request(scope: Scope, errors: Sequence[ProblemItem]) -> Response:
    """A 422 that lists what to put right; its detail repeats the first, for those who read nothing else."""
    first, *others = errors
    place = first.pointer if first.pointer is not None else first.parameter
    detail = f"{place or 'The body'}: {first.detail}" if place else f"The body {first.detail}"
    if others:
        detail += f" (and {len(others)} more)"
    return problem(scope, HTTPStatus.UNPROCESSABLE_ENTITY, detail, code="invalid_request", errors=errors)


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101  registered for this class only
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return await _on_anything_else(request, error)
    errors = []
    if isinstance(error, InvalidRecipe):
        errors = [ProblemItem(pointer=field_pointer(error.field), detail=error.detail)]
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return problem(request.scope, status, str(error), code=error.code, errors=errors, headers=headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class only
    details = {
        HTTPStatus.NOT_FOUND: f"There is nothing at {request.url.path}; see /openapi.json for what there is.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible here; see the Allow header.",
        HTTPStatus.BAD_REQUEST: "The body cannot be read as JSON in UTF-8.",
    }
    said = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
    if error.status_code == HTTPStatus.BAD_REQUEST and "parsing the body" in said:
        said = ""
    detail = said or details.get(HTTPStatus(error.status_code), HTTPStatus(error.status_code).phrase)
    code = {413: "body_too_large", 503: "unavailable"}.get(error.status_code)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return problem(request.scope, error.status_code, detail, code=code, headers=headers)


def _methods(request: Request) -> list[str]:
    """All that is possible at this path; the router tells only of the first route that has it."""

    def is_possible(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in ("GET", "HEAD", "POST", "PUT", "DELETE") if is_possible(method)]


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this class only
    field = getattr(request.scope.get("route"), "body_field", None)
    body_type = dict if field is None else field.field_info.annotation
    return invalid_request(request.scope, explain(error.errors(), error.body, body_type))


async def _on_database_gone(request: Request, error: Exception) -> Response:
    log.error("request %s: the database does not answer: %s", request_id(request.scope), error)
    return await _on_http_error(request, Unready("The database does not answer; try again shortly."))


async def _on_unstorable(request: Request, error: Exception) -> Response:
    log.info("request %s: %s", request_id(request.scope), error)
    return problem(
        request.scope,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A value of the request cannot be kept or looked for: it holds a NUL character, or is too large a number.",
        code="invalid_request",
    )


async def _on_anything_else(request: Request, error: Exception) -> Response:
    name = request_id(request.scope)
    log.error("request %s failed", name, exc_info=error)
    detail = f"This is a fault of the service, not of your request. The log has more under {name}."
    return problem(request.scope, HTTPStatus.INTERNAL_SERVER_ERROR, detail, code="internal")


def register(app: FastAPI) -> None:
    """Route every error of the app through the table."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(OperationalError, _on_database_gone)
    app.add_exception_handler(InterfaceError, _on_database_gone)
    app.add_exception_handler(NoConnectionFree, _on_database_gone)
    app.add_exception_handler(DataError, _on_unstorable)
    app.add_exception_handler(Exception, _on_anything_else)
