"""Colours stay apart for readers who see two kinds of light, and text stays text."""

from __future__ import annotations

import threading
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from workers.figures.style import (
    COLOURS,
    DASHES,
    MARKERS,
    STYLE,
    figure_of,
    look,
    plain,
    scale_by_range,
    styled,
    wrapped,
)

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, seen_by: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour as such a reader sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(seen_by @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen_by", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["all", "deuteranopia", "protanopia"])
def test_no_two_colours_look_alike(seen_by: np.ndarray) -> None:
    """A difference of 2.3 is just noticed; lines want several times that."""
    for one, other in combinations(COLOURS, 2):
        assert np.linalg.norm(lab(one, seen_by) - lab(other, seen_by)) > 11, (one, other)


def test_methods_differ_in_more_than_colour() -> None:
    looks = [look(number) for number in range(len(COLOURS) * len(DASHES))]
    assert len({(colour, str(dashes)) for colour, _, dashes in looks}) == len(looks)
    near = [look(number) for number in range(len(DASHES))]
    assert len({marker for _, marker, _ in near}) == len(near) == len({str(dashes) for _, _, dashes in near})
    assert len(set(MARKERS)) == len(MARKERS)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=300), st.integers(5, 40))
def test_wrapping_keeps_every_letter(text: str, width: int) -> None:
    lines = wrapped(text, width).split("\n")
    assert "".join(lines) == text
    assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1e-5, "1e-5"), (0.001, "0.001"), (20.0, "20"), (1500.0, "1,500"), (2.5e6, "2.5e6")]
)
def test_ticks_are_written_as_people_write(value: float, text: str) -> None:
    assert plain(value) == text


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0, 10.0], "log"),
        ([1.0, 9.0], "linear"),
        ([0.0, 100.0], "linear"),
        ([-1.0, 100.0], "linear"),
        ([], "linear"),
        ([float("nan"), 3.0], "linear"),
        ([float("inf"), 3.0, 4.0], "linear"),
    ],
)
def test_an_axis_is_logarithmic_where_the_range_is_large(values: list[float], scale: str) -> None:
    axes = figure_of("range").subplots()
    scale_by_range(axes, "y", values)
    assert axes.get_yscale() == scale


def test_the_style_leaves_the_process_as_it_was() -> None:
    """Threads that draw at once neither lose the style nor leave it behind."""
    before = {name: matplotlib.rcParams[name] for name in STYLE}
    start, seen = threading.Barrier(4), []

    def draw() -> None:
        start.wait()
        for _ in range(20):
            with styled():
                seen.append(matplotlib.rcParams["svg.hashsalt"])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["dress"] * 80
    assert {name: matplotlib.rcParams[name] for name in STYLE} == before
