"""What the OpenAPI document says beyond what the routes' types tell: errors, and shapes kept as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import MEDIA_TYPE
from api.schemas import Problem
from workers.contracts.results import Results

_MEANINGS: Mapping[int, str] = {
    400: "The body cannot be read as JSON in UTF-8.",
    401: "The API key is missing or unknown.",
    404: "There is no such thing.",
    409: "The present state does not allow it, or the first request with this Idempotency-Key is still in flight.",
    413: "The body is too large.",
    415: "The body is of another type than this route reads.",
    416: "The range lies outside the file.",
    421: "The Host header names another server.",
    422: "The request is not valid; `errors` points at each thing to put right.",
    500: "A fault of the service.",
    507: "The artifact store is full.",
    503: "The database does not answer; try again shortly.",
}

_REF = "#/components/schemas/"


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of a route's errors: those named, and those that any route may have."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in sorted({*statuses, 421, 500})}


def describe(app: FastAPI) -> dict[str, Any]:
    """The app's OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            description=app.description,
            routes=app.routes,
        )
        schemas = document["components"]["schemas"]
        for operation in (each for methods in document["paths"].values() for each in methods.values()):
            # FastAPI adds its own 422 to whatever has a parameter, even where none can be wrong.
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
        for own in ("HTTPValidationError", "ValidationError"):
            schemas.pop(own, None)
        for model in (Problem, Results):
            made = model.model_json_schema(ref_template=_REF + "{model}")
            schemas.update(made.pop("$defs", {}))
            schemas[model.__name__] = made
        # The server gives recipe and results back as they were stored; what they look like is told by their contracts.
        for body, name, contract in (
            ("Job", "recipe", "Recipe"),
            ("Job", "results", "Results"),
            ("Plan", "recipe", "Recipe"),
        ):
            told = schemas[body]["properties"][name]
            schemas[body]["properties"][name] = {"$ref": _REF + contract, "description": told["description"]}
        app.openapi_schema = document
    return app.openapi_schema
