"""The common ground of every contract: strict, closed, immutable, documented by attribute docstrings."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """A value that crosses a border (REST, database, Ray, file). Unknown fields and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def field_path(plain: Any, location: tuple[int | str, ...]) -> str:
    """A validation error's place as people write fields, such as `recover.rank`.

    Args:
        plain: what was validated.
        location: pydantic's own path, which also names the members of unions; those are left out.
    """
    parts: list[str] = []
    here = plain
    for part in location:
        if isinstance(here, dict) and part not in here and here.get("kind") == part:
            continue
        parts.append(str(part))
        here = here.get(part) if isinstance(here, dict) else None
    return ".".join(parts)
