"""The paper's Figure 3: what is left of the part that will go, for each layer and matrix, as a heat map."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from workers.contracts.records import PreservedRecord
from workers.figures.style import figure_of, wrapped

IN_A_LAYER = re.compile(r"^(?P<before>.*?)\.(?P<layer>\d+)\.(?P<matrix>.+)$")
COLOURS = "cividis"
"""Even in lightness from dark to light, and made for colour-blind readers."""

WRITTEN_LAYERS = 12
"""Up to so many layers every cell's value is written into it."""


def preserved_heat_map(record: PreservedRecord) -> Figure | None:
    """Matrices by layers after the last step, those outside of the layers beside them; None if there are none."""
    last = {_short(name): column[-1] for name, column in record.parameters.items() if column}
    last |= {f"{site} (activations)": share for site, share in record.activations.items()}
    inside, outside = _by_layer(last)
    if not last:
        return None
    rows = list(dict.fromkeys(matrix for _, matrix in inside))
    layers = sorted({layer for layer, _ in inside})
    figure = figure_of(
        "What regularization leaves of the part that will go", 1.7 + 0.27 * max(len(rows), len(outside), 4)
    )
    values = [value for value in last.values() if value is not None]
    top = max(100.0, 100 * max(values, default=0.0))
    panels = _panels(figure, len(layers), len(outside))
    image = None
    if rows:
        grid = np.array([[_percent(inside.get((layer, matrix))) for layer in layers] for matrix in rows])
        image = _cells(panels[0], grid, top, written=len(layers) <= WRITTEN_LAYERS)
        step = -(-len(layers) // WRITTEN_LAYERS)
        panels[0].set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
        panels[0].set_yticks(range(len(rows)), [wrapped(matrix, 34) for matrix in rows])
        panels[0].set_xlabel("Layer")
    if outside:
        column = np.array([[_percent(value)] for value in outside.values()])
        image = _cells(panels[-1], column, top, written=True)
        panels[-1].set_xticks([])
        panels[-1].set_yticks(range(len(outside)), [wrapped(name, 24) for name in outside])
        panels[-1].set_xlabel("outside\nthe layers")
    if image is not None:
        bar = figure.colorbar(image, ax=panels, pad=0.02, fraction=0.05)
        bar.set_label("Preserved ratio, after / before (%)")
    return figure


def _panels(figure: Figure, layers: int, outside: int) -> list[Axes]:
    if not (layers and outside):
        return [figure.subplots()]
    wide = max(2.0, min(layers, WRITTEN_LAYERS))
    return list(figure.subplots(1, 2, width_ratios=[wide, 1.0]))


def _cells(axes: Axes, grid: np.ndarray, top: float, *, written: bool) -> AxesImage:
    """Percentages as colours, and as figures where there is room; cells without a value stay white."""
    image = axes.imshow(grid, cmap=COLOURS, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(grid):
        if written and np.isfinite(value):
            ink = "white" if value < 0.55 * top else "#1a1a1a"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
    return image


def _by_layer(last: dict[str, float | None]) -> tuple[dict[tuple[int, str], float | None], dict[str, float | None]]:
    """The values in layers by (layer, matrix), and the others by name."""
    inside, outside = {}, {}
    for name, value in last.items():
        if found := IN_A_LAYER.match(name):
            inside[int(found["layer"]), found["matrix"]] = value
        else:
            outside[name.removeprefix("model.").removeprefix("decoder.")] = value
    return inside, outside


def _short(name: str) -> str:
    return name.replace(".weight", "")


def _percent(share: float | None) -> float:
    return np.nan if share is None else 100 * share
