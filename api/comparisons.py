"""Bodies of comparisons beside the table itself, as server and client say them; they know REST and nothing else."""

from __future__ import annotations

from typing import Literal, Self

from api.schemas import Answer, Page

MOST_IDS = 100
"""Jobs that a comparison may name one by one; a label may pick more."""

MOST_LABELS = 16


class FigureName(Answer):
    """A figure that can be drawn."""

    object: Literal["figure"] = "figure"
    name: str
    """Such as `perplexity_by_parameters_wikitext2`."""
    svg: str
    """Where it is as SVG."""
    png: str
    """Where it is as PNG."""

    @classmethod
    def of(cls, name: str, query: str) -> Self:
        """The figure of the jobs that this query names."""
        svg, png = (f"/v1/jobs:compare/figures/{name}.{form}{query}" for form in ("svg", "png"))
        return cls(name=name, svg=svg, png=png)


class FigureList(Page[FigureName]):
    """What can be drawn of a comparison."""
