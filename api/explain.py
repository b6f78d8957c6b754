"""Says in plain words what is wrong with a request body, and where: pydantic's errors become pointers and remedies."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from api.schemas import ProblemItem
from workers.contracts.search import Search

_WANTED: Mapping[str, str] = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "string_unicode": "must be a text of valid Unicode characters",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object with named fields",
    "model_type": "must be an object with named fields",
    "model_attributes_type": "must be an object with named fields",
    "datetime_from_date_parsing": "must be a time such as 2026-11-23T21:00:00Z",
    "datetime_parsing": "must be a time such as 2026-11-23T21:00:00Z",
    "datetime_type": "must be a time such as 2026-11-23T21:00:00Z",
    "timezone_aware": "must name its time zone, such as 2026-11-23T21:00:00Z",
    "missing": "is required; add it",
}
"""What a field must be, by pydantic's name of the error."""

_OF_A_STUDY = frozenset({"methods", "rows", "grid", "base"})
_STUDY = (
    "makes it a study, which is a job for each row or method: submit the file with `dress submit`, or post each of its "
    "recipes as a job of its own, with one `method`"
)

_SEARCH = "makes it a search: submit the file with `dress search submit`, or post it to /v1/searches as `search`"

_ABOUT_A_FIELD = re.compile(r"([a-z_]+)((?:\.[a-z0-9_]+)*): (.*)", re.DOTALL)
"""How a contract's complaint begins that is about one of its fields."""

_SAID = frozenset({"value_error", "assertion_error"})
"""What a contract says in its own words."""

_RANGE_ERRORS = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
_BOUNDS = (
    ("exclusiveMinimum", "greater than"),
    ("minimum", "at least"),
    ("exclusiveMaximum", "less than"),
    ("maximum", "at most"),
)


def explain(errors: Sequence[Any], body: Any, body_type: Any) -> list[ProblemItem]:
    """Each error of a request, in the words of the API.

    Args:
        errors: as pydantic lists them, places starting with `body`, `query`, `header` or `path`.
        body: what the caller sent, to tell fields from the names of union members in those places.
        body_type: what the route reads, for the names and ranges that would have been right.
    """
    return [_item(error, body, body_type) for error in errors]


def pointer(parts: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901); the empty one is the whole body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def field_pointer(field: str) -> str:
    """The pointer of a recipe's dotted field, such as `evaluate.perplexity[0].path`."""
    return pointer(["recipe", *(part for part in re.split(r"[.\[\]]+", field) if part)])


def unstorable(body: Any, deepest: int = 64) -> Iterator[ProblemItem]:
    """What JSON's grammar lets through but no database keeps: NUL, lone surrogates, NaN, infinities, deep nesting."""
    waiting: list[tuple[list[str | int], Any]] = [([], body)]
    while waiting:
        place, value = waiting.pop()
        if len(place) > deepest:
            yield ProblemItem(pointer=pointer(place[:8]), detail=f"is nested deeper than {deepest} levels; flatten it")
        elif isinstance(value, dict):
            waiting.extend(([*place, name], inner) for name, inner in value.items())
            if any(not _is_clean(name) for name in value):
                yield ProblemItem(pointer=pointer(place), detail="has a name with NUL or invalid Unicode; rename it")
        elif isinstance(value, list):
            waiting.extend(([*place, index], inner) for index, inner in enumerate(value))
        elif isinstance(value, str) and not _is_clean(value):
            yield ProblemItem(pointer=pointer(place), detail="holds NUL or invalid Unicode; remove those characters")
        elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            yield ProblemItem(pointer=pointer(place), detail="must be a finite number")


def _is_clean(text: str) -> bool:
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text)


def _item(error: Any, body: Any, body_type: Any) -> ProblemItem:
    where, *rest = error["loc"]
    if where != "body":
        return ProblemItem(parameter=str(rest[-1]) if rest else str(where), detail=_detail(error, {}))
    if error["type"] == "json_invalid":
        return ProblemItem(pointer="", detail=f"is no JSON ({error['ctx']['error']} at character {rest[0]})")
    if isinstance(body, bytes) or (not rest and error["type"] == "missing"):
        remedy = "send one, with the header Content-Type: application/json"
        return ProblemItem(pointer="", detail=f"is no JSON object; {remedy}")
    parts = _present(rest, body, is_missing=error["type"] == "missing")
    schema = _schema_at(body_type, parts, body)
    detail = _misplaced(error, body) or _detail(error, schema)
    if error["type"] in _SAID and parts[:1] == ["search"]:  # a recipe's complaints are about how its fields go together
        parts, detail = _nearer(parts, detail, body, schema)
    return ProblemItem(pointer=pointer(parts), detail=detail)


def _present(place: Sequence[str | int], body: Any, *, is_missing: bool) -> list[str | int]:
    """The place without the union members' names that pydantic weaves in: what the body really has."""
    parts: list[str | int] = []
    here = body
    for index, part in enumerate(place):
        if isinstance(here, dict) and part in here:
            here = here[str(part)]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        elif not (is_missing and isinstance(here, dict) and index == len(place) - 1):
            continue
        parts.append(part)
    return parts


def _nearer(parts: list[str | int], detail: str, body: Any, schema: Mapping[str, Any]) -> tuple[list[str | int], str]:
    """A contract's complaint told at the field that it is about: `trials: how many?`, `space.method.ratio: ...`."""
    about = _ABOUT_A_FIELD.fullmatch(detail)
    here = body
    for part in parts:
        here = _part_of(here, part)
    if about is None or not isinstance(here, dict) or about[1] not in schema.get("properties", {}):
        return parts, detail
    field, rest = about[1], about[2][1:]
    inner = here.get(field)
    names = [rest] if isinstance(inner, dict) and rest in inner else rest.split(".") if rest else []
    return [*parts, field, *names], about[3]


def _misplaced(error: Any, body: Any) -> str | None:
    """What to do with a field that no recipe has, but a study or a search."""
    where = tuple(error["loc"])
    if error["type"] != "extra_forbidden" or where[:2] != ("body", "recipe") or len(where) != 3:
        return None
    if "space" in body["recipe"]:
        return _SEARCH if where[2] in Search.model_fields else None
    return _STUDY if where[2] in _OF_A_STUDY else None


def _detail(error: Any, schema: Mapping[str, Any]) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error.get("input")
    if kind in _RANGE_ERRORS:
        return f"{given} is out of range; give a number {_range(schema, context)}"
    if kind in ("literal_error", "enum"):
        return f"{_shown(given)} is not known; choose {context['expected'].replace(chr(39), '`')}"
    if kind == "union_tag_invalid":
        choices = context["expected_tags"].replace("'", "`")
        return f"{_shown(context['tag'])} is not known; choose one of {choices} as {_ticked(context['discriminator'])}"
    if kind == "union_tag_not_found":
        return f"needs the field {_ticked(context['discriminator'])}; add it"
    if kind == "extra_forbidden":
        return _unknown_field(str(error["loc"][-1]), schema)
    if kind in _SAID:
        return str(error["msg"]).split(", ", 1)[-1]
    if kind == "missing" and isinstance(error["loc"][-1], int):
        return "has too few entries; add what is missing"
    if kind in ("string_too_short", "string_too_long", "too_short", "too_long"):
        return _length(kind, context)
    if kind == "string_pattern_mismatch":
        return f"does not have the right form; it must match {context['pattern']}"
    return _WANTED.get(kind, str(error["msg"]))


def _range(schema: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    bounds = [f"{words} {schema[name]}" for name, words in _BOUNDS if name in schema]
    if not bounds:
        words = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
        bounds = [f"{words[name]} {value:g}" for name, value in context.items() if name in words]
    return " and ".join(bounds)


def _length(kind: str, context: Mapping[str, Any]) -> str:
    unit = "characters" if kind.startswith("string") else "entries"
    if kind.endswith("short"):
        return f"is too short; give at least {context['min_length']} {unit}"
    return f"is too long; give at most {context['max_length']} {unit}"


def _unknown_field(name: str, schema: Mapping[str, Any]) -> str:
    """`schema` is that of the object around the field."""
    known = sorted(schema.get("properties", {}))
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"is not a known field; did you mean `{near[0]}`?"
    return "is not a known field; remove it" + (f" (known here: {', '.join(known)})" if known else "")


def _shown(value: Any) -> str:
    """A short value as the caller wrote it; anything long or nested only by kind."""
    return f"`{value}`" if isinstance(value, str | int | float) and len(str(value)) <= 64 else "this value"


def _ticked(name: str) -> str:
    return "`" + name.strip("'") + "`"


@cache
def _schema(body_type: Any) -> dict[str, Any]:
    return TypeAdapter(body_type).json_schema()


def _schema_at(body_type: Any, parts: Sequence[str | int], body: Any) -> dict[str, Any]:
    """All that the body's JSON schema says at a place; for an unknown field, what it says of the object around."""
    here, value = [_schema(body_type)], body
    for part in parts:
        inner = [child for node in here for each in _members(node, body_type, value) for child in _children(each, part)]
        if not inner:
            break
        here, value = inner, _part_of(value, part)
    merged: dict[str, Any] = {}
    for each in (member for node in here for member in _members(node, body_type, value)):
        merged = {**merged, **each, "properties": {**merged.get("properties", {}), **each.get("properties", {})}}
    return merged


def _children(node: Mapping[str, Any], part: str | int) -> Iterator[dict[str, Any]]:
    if isinstance(part, int) and "items" in node:
        yield node["items"]
    elif part in node.get("properties", {}):
        yield node["properties"][part]
    else:
        yield from node.get("patternProperties", {}).values()


def _part_of(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    is_there = isinstance(value, list) and isinstance(part, int) and part < len(value)
    return value[part] if is_there else None


def _members(node: dict[str, Any], body_type: Any, value: Any) -> Iterator[dict[str, Any]]:
    """The node itself with references followed, and the members of its unions: all, or the one that the value names."""
    if "$ref" in node:
        yield from _members(_schema(body_type)["$defs"][node["$ref"].rsplit("/", 1)[-1]], body_type, value)
        return
    yield node
    said = node.get("discriminator", {})
    named = said.get("mapping", {}).get(value.get(said["propertyName"])) if said and isinstance(value, dict) else None
    members = [{"$ref": named}] if named else [*node.get("anyOf", []), *node.get("oneOf", [])]
    for member in members:
        yield from _members(member, body_type, value)
