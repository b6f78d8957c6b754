"""A figure as bytes: the same figure gives the same bytes, whenever and wherever it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from workers.figures.style import styled

Form = Literal["svg", "png"]
FORMS: tuple[Form, ...] = ("svg", "png")

UNDRAWABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What drawing and rendering raise where records hold what nobody thought of; a full disk is not among them."""

PNG_DOTS_PER_INCH = 200
"""Twice what 640 pixels need: sharp on dense screens and on paper."""


def rendered(figure: Figure, form: Form) -> bytes:
    """The figure as a file's content. No date goes in, and an SVG's names come from its content."""
    file = BytesIO()
    title = figure.get_suptitle().replace("\n", " ")
    with styled():
        if form == "png":
            FigureCanvasAgg(figure)
            figure.savefig(file, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None, "Title": title})
            return file.getvalue()
        FigureCanvasSVG(figure)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return file.getvalue().replace(b"<svg ", b'<svg role="img" ', 1)


def saved(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures by their names into a folder, each as SVG and as PNG."""
    files = []
    for name, figure in figures.items():
        for form in FORMS:
            file = folder / f"{name}.{form}"
            file.write_bytes(rendered(figure, form))
            files.append(file)
    return files
