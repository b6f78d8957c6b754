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

_STORED = (
    ("Job", "recipe", "Recipe"),
    ("Job", "results", "Results"),
    ("Plan", "recipe", "Recipe"),
    ("QueuedSearch", "search", "Search"),
    ("BestTrial", "recipe", "Recipe"),
    ("Trial", "results", "Results"),
)
"""What the server gives back as it was stored; what it looks like is told by its contract."""

_IN_WORDS = {
    "Dimension": "loguniform(1e-5, 1e-1)",
    "Objective": "perplexity.wikitext2 min",
    "Constraint": "parameters <= 0.75 dense",
}
"""Parts of a search that may be written as a text, each with an example."""


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
        for body, name, contract in _STORED:
            told = schemas[body]["properties"][name]
            shape: dict[str, Any] = {"$ref": _REF + contract}
            if {"type": "null"} in told.get("anyOf", ()):
                shape = {"anyOf": [shape, {"type": "null"}]}
            schemas[body]["properties"][name] = {**shape, "description": told["description"]}
        _add_words(schemas)
        app.openapi_schema = document
    return app.openapi_schema


def _add_words(schemas: dict[str, Any]) -> None:
    """Tell the short forms of a search's parts, which are put into their full form before they are validated."""
    for name, example in _IN_WORDS.items():
        words = {"type": "string", "description": "The same in words.", "examples": [example]}
        schemas[name] = {"title": name, "anyOf": [schemas[name], words]}
    search = schemas["Search"]["properties"]
    one = {"$ref": f"{_REF}Objective"}
    search["objective"] = {"description": search["objective"].pop("description"), "anyOf": [search["objective"], one]}
    search["scheduler"]["anyOf"].append({"enum": ["asha", "median", "none"]})
