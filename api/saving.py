"""Writes a table where the user wants it: one file in the form that its name says, or all forms and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from api.console import fail
from workers.written import ENDINGS, TableForm, write_forms

SaveOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|DIR",
        help="Write it too: a .md, .csv or .json file, or all forms and figures into a folder.",
    ),
]

_FORMS: dict[str, TableForm] = {f".{ending}": form for form, ending in ENDINGS.items()}


def saved(place: Path, told: Callable[[TableForm], str], draw: Callable[[Path], Iterable[Path]]) -> list[str]:
    """The files written: one of the form that the name's ending says, or all into a folder.

    Args:
        told: the table in a form.
        draw: writes its figures into a folder.
    """
    if place.suffix in _FORMS:
        place.write_text(told(_FORMS[place.suffix]), encoding="utf-8", newline="")
        return [str(place)]
    if place.suffix and not place.is_dir():
        fail(f"--save {place}: the ending tells the form; take {', '.join(_FORMS)}, or a folder for all", status=2)
    place.mkdir(parents=True, exist_ok=True)
    write_forms(told, place)
    return [*(str(place / f"table.{ending}") for ending in ENDINGS.values()), *map(str, draw(place))]
