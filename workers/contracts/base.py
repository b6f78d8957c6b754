"""The common ground of every contract: strict, closed, immutable, documented by attribute docstrings."""

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """A value that crosses a border (REST, database, Ray, file). Unknown fields and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
