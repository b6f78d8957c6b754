"""The table that a study fills: one line a row, as Markdown for people and as JSON for programs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from workers.contracts.base import Contract
from workers.contracts.results import Measurement, PerplexityProtocol, Results

RowStatus = Literal["succeeded", "failed", "cancelled", "unfinished"]


class TableRow(Contract):
    """What became of one row."""

    name: str
    is_control: bool
    """Added for comparison, not asked for."""
    status: RowStatus
    error: str | None = None
    """Why there are no figures, or not all."""
    seconds: float | None = None
    """What the row's stages cost. A stage that several rows share counts in each."""
    results: Results = Results()
    recipe: dict[str, Any] = Field(repr=False)
    """The complete recipe, with every default spelled out."""
    keys: list[str] = Field(default=[], repr=False)
    """Digests of all that decided the row's stages, in their order, where they are known."""

    @property
    def final(self) -> Measurement | None:
        """The model that the row ends with."""
        return self.results.recovered or self.results.pruned

    @property
    def parameters_fraction(self) -> float | None:
        """Parameters left, of the dense model's; 1.0 is all of them."""
        return _quotient(_of(self.final, "parameters"), _of(self.results.dense, "parameters"))

    def perplexity_ratio(self, text: str) -> float | None:
        """Perplexity of the final model over the dense model's; below 1 is better than dense."""
        return _quotient(_perplexity(self.final, text), _perplexity(self.results.dense, text))


class StudyTable(Contract):
    """All rows, in order."""

    title: str
    about: str
    rows: list[TableRow]

    @property
    def is_complete(self) -> bool:
        """Whether every row succeeded."""
        return all(row.status == "succeeded" for row in self.rows)

    @property
    def texts(self) -> list[str]:
        """The texts on which perplexity was measured."""
        measured = [row.results.dense or Measurement() for row in self.rows]
        return list(dict.fromkeys(text for each in measured for text in each.perplexity or {}))

    def markdown(self) -> str:
        """The table with its title, how perplexity was measured, and what went wrong."""
        columns = self._columns()
        lines = [[title for title, _ in columns], *([tell(row) for _, tell in columns] for row in self.rows)]
        parts = [f"# {self.title}", self.about, _aligned(lines)]
        if notes := [*self._models(), *self._protocols()]:
            parts.append("\n".join(f"- {line}" for line in notes))
        if faults := [f"- **{row.name}**: {row.error}" for row in self.rows if row.error]:
            parts.append("\n".join(faults))
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> None:
        """Write `table.md` and `table.json` into a folder."""
        (folder / "table.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "table.json").write_text(self.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")

    def _columns(self) -> list[tuple[str, Callable[[TableRow], str]]]:
        columns: list[tuple[str, Callable[[TableRow], str]]] = [
            ("row", lambda row: row.name if row.status == "succeeded" else f"{row.name} ({row.status})"),
            ("parameters", lambda row: _count(_of(row.final, "parameters"))),
            ("% of dense", lambda row: _figure(row.parameters_fraction, "{:.1%}")),
        ]
        for text in self.texts:
            columns += _perplexity_columns(text)
        if any(_speed(row.final) for row in self.rows):
            columns.append(("tokens/s", lambda row: _figure(_speed(row.final), "{:,.0f}")))
            columns.append(
                ("÷ dense", lambda row: _figure(_quotient(_speed(row.final), _speed(row.results.dense)), "{:.2f}"))
            )
        return [
            *columns,
            ("seconds", lambda row: _figure(row.seconds, "{:,.0f}" if (row.seconds or 0) >= 100 else "{:.1f}")),
        ]

    def _models(self) -> list[str]:
        """Which models these are, and how large."""
        sizes = {str(row.recipe.get("model", {}).get("source", "")): row.results.dense for row in self.rows}
        return [
            f"Model: {source}, {_count(_of(dense, 'parameters')) or 'not measured'} parameters."
            for source, dense in sizes.items()
            if source
        ]

    def _protocols(self) -> list[str]:
        """How each text was measured; more than one line for a text means that its figures do not compare."""
        told = []
        for row in self.rows:
            for measured in (row.results.dense, row.results.pruned, row.results.recovered):
                protocols = (measured and measured.perplexity_protocol) or {}
                told += [_protocol(text, protocol) for text, protocol in protocols.items()]
        return list(dict.fromkeys(told))


def _perplexity_columns(text: str) -> list[tuple[str, Callable[[TableRow], str]]]:
    return [
        (f"{text}: dense", lambda row: _figure(_perplexity(row.results.dense, text), "{:,.2f}")),
        ("pruned", lambda row: _figure(_perplexity(row.results.pruned, text), "{:,.2f}")),
        ("recovered", lambda row: _figure(_perplexity(row.results.recovered, text), "{:,.2f}")),
        ("÷ dense", lambda row: _figure(row.perplexity_ratio(text), "{:.3f}")),
    ]


def _protocol(text: str, protocol: PerplexityProtocol) -> str:
    return (
        f"Perplexity on {text}: {protocol.windows:,} windows of {protocol.sequence_length:,} tokens, "
        f"weights in {protocol.dtype}, arithmetic in {protocol.arithmetic}, {protocol.batch_size} windows at once."
    )


def _aligned(lines: Iterable[list[str]]) -> str:
    """A Markdown table that is as easy to read as it stands: the first column to the left, figures to the right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    rows = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _of(measured: Measurement | None, figure: str) -> int | None:
    value: int | None = getattr(measured, figure, None)
    return value


def _perplexity(measured: Measurement | None, text: str) -> float | None:
    return ((measured and measured.perplexity) or {}).get(text)


def _speed(measured: Measurement | None) -> float | None:
    return measured.speed.generation_tokens_per_second if measured and measured.speed else None


def _quotient(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
