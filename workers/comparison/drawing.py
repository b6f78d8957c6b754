"""Figures of rows side by side: what of a table's rows is drawn, and the files that come of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workers.comparison.columns import method_of, scores
from workers.comparison.row import TableRow
from workers.contracts.results import Measurement
from workers.figures.rows import Accuracy, ComparedRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures_of(rows: Sequence[TableRow]) -> dict[str, Figure]:
    """The figures that the rows allow, by file name without ending; of few measured rows none."""
    from workers.figures.comparison import comparison_figures  # matplotlib takes a second to load

    return comparison_figures(drawn_rows(rows))


def drawn_rows(rows: Iterable[TableRow]) -> list[ComparedRow]:
    """A row for each row's final model, and one for each dense model, as the figures want them."""
    dense: dict[str, ComparedRow] = {}
    drawn = []
    for row in rows:
        model = str(row.said("model", "source") or "")
        if row.results.dense and model not in dense:
            dense[model] = _drawn("dense", model, row.results.dense, is_dense=True)
        drawn.append(_of_row(row, model))
    return [*dense.values(), *drawn]


def _of_row(row: TableRow, model: str) -> ComparedRow:
    told = _drawn(row.name, model, row.final or Measurement(), parameters=row.counted_parameters)
    regularized = row.said("method", "solver") in ("penalty", "proximal")
    return replace(
        told,
        method=_series(row),
        is_control=row.is_control,
        ratio=row.said("method", "ratio"),
        strength=row.said("method", "strength") if regularized else None,
        samples=row.said("data", "samples"),
        corpus=row.said("data", "name"),
    )


def _drawn(
    name: str, model: str, measured: Measurement, *, is_dense: bool = False, parameters: int | None = None
) -> ComparedRow:
    speed = measured.speed
    return ComparedRow(
        name=name,
        model=model,
        is_dense=is_dense,
        parameters=parameters if parameters is not None else measured.parameters,
        perplexity=dict(measured.perplexity or {}),
        accuracy={
            task: Accuracy(score.value, score.stderr)
            for task, score in scores(measured).items()
            if score.value is not None
        },
        tokens_per_second=speed.generation_tokens_per_second if speed else None,
        prompt_seconds=speed.prompt.seconds if speed and speed.prompt else None,
    )


def _series(row: TableRow) -> str:
    """The method with what tells its variants apart; a control by its name without its point of the grid."""
    if row.is_control:
        return row.name.partition(" (")[0]
    norm = row.said("method", "norm") if row.said("method", "solver") == "penalty" else None
    return " ".join(word for word in (method_of(row), norm) if word)


def write_figures(rows: Sequence[TableRow], folder: Path) -> list[Path]:
    """Write every figure that the rows allow into a folder, as SVG and as PNG."""
    from workers.figures.rendering import saved

    return saved(figures_of(rows), folder)
