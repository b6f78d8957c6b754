"""The same figure gives the same bytes, and an SVG can be read aloud."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from workers.figures.comparison import comparison_figures
from workers.figures.rendering import FORMS, Form, rendered
from workers.figures.rows import ComparedRow

ROWS = [
    ComparedRow("one", method="DReSS ℓ2", parameters=7_000_000, perplexity={"wikitext2": 12.0}),
    ComparedRow(
        "costs $5 & <more>", method="costs $5 & $6 <more>", parameters=9_000_000, perplexity={"wikitext2": 14.0}
    ),
]

ELSEWHERE = """
import hashlib
from tests.workers.figures.test_rendering import figure
from workers.figures.rendering import FORMS, rendered
print(*(hashlib.sha256(rendered(figure(), form)).hexdigest() for form in FORMS))
"""


def figure() -> Figure:
    return comparison_figures(ROWS)["perplexity_by_parameters_wikitext2"]


@pytest.mark.parametrize("form", FORMS)
def test_a_figure_drawn_twice_has_the_same_bytes(form: Form) -> None:
    one, other = figure(), figure()
    assert rendered(one, form) == rendered(other, form) == rendered(one, form)


def test_another_process_draws_the_same_bytes() -> None:
    """Stored digests are stable: neither a date nor a process's hashes go in."""

    def digests(seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": seed}
        return subprocess.run(
            [sys.executable, "-c", ELSEWHERE], env=environment, check=True, capture_output=True
        ).stdout

    first = digests("1")
    assert len(first.split()) == len(FORMS)
    assert digests("2") == first


def test_the_text_of_an_svg_is_text() -> None:
    svg = rendered(figure(), "svg").decode()
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Parameters of the exported model (millions)", "DReSS ℓ2", "costs $5 & $6 <more>"} <= texts
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None and title.text == "WikiText-2: perplexity against true parameters"
    assert "http://" not in "".join(
        value for element in root.iter() for value in element.attrib.values() if "font" in value
    )


def test_a_png_is_twice_as_fine_as_it_is_shown() -> None:
    png = rendered(figure(), "png")
    assert png.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", png[16:24])
    assert width == 1280
    assert 700 < height < 1280
    assert b"Software" not in png and b"tIME" not in png
