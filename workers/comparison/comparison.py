"""Jobs side by side: one table of all figures, with notes on what does not compare. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

from workers.comparison.caveats import Note, notes_of
from workers.comparison.columns import Column, columns_of, models
from workers.comparison.row import TableRow
from workers.contracts.base import Contract
from workers.contracts.results import PerplexityProtocol
from workers.written import Form, TableForm, Value, aligned, comma_separated, write_forms, written

UNTITLED = "Comparison"
"""The title where there is no study to name."""

SAME_SIZE_FRACTION = 0.01
"""Rows whose parameter counts differ by no more than this, of the larger, are of equal size."""


class ColumnTitle(Contract):
    """A column, as programs and people call it."""

    name: str
    """Key of the rows' `figures`, such as `perplexity.wikitext2.recovered`."""
    title: str
    """What stands above it in the table; where columns belong together, the first says to what."""
    form: Form
    """How the table writes its figures."""
    error_of: str | None = None
    """The column whose standard error this is."""


class ComparisonRow(TableRow):
    """A row with its figures by column, and what must be known to compare them."""

    figures: dict[str, Value] = {}
    """By column; null is what was not measured. Shares and accuracies are from 0 to 1, sizes in bytes."""
    marks: dict[str, list[int]] = {}
    """By column: numbers of the notes that say why this figure does not compare with the others of its column."""
    same_size_as: list[int] = []
    """Places (from 0) of the other rows whose true parameter count is within 1 % of this row's. Compare quality among
    these; between sizes nothing is interpolated."""


class Comparison(Contract):
    """One table of all jobs asked for."""

    object: Literal["comparison"] = "comparison"
    title: str = UNTITLED
    """The study's title where all rows are of one study."""
    about: str = ""
    """What the study says of itself."""
    columns: list[ColumnTitle]
    """In the order of the table."""
    rows: list[ComparisonRow]
    """In the order asked for, or sorted."""
    notes: list[Note]
    """Why marked figures do not compare."""

    @classmethod
    def of(cls, rows: Sequence[TableRow], *, title: str = UNTITLED, about: str = "", is_brief: bool = False) -> Self:
        """The rows side by side, in their order; briefly with the columns alone that every study's table has."""
        columns = [column for column in columns_of(rows) if column.is_brief or not is_brief]
        notes = notes_of(rows)
        return cls(
            title=title,
            about=about,
            columns=[
                ColumnTitle(name=each.name, title=each.title, form=each.form, error_of=each.error_of)
                for each in columns
            ],
            rows=[_compared(row, place, columns, notes, near) for place, (row, near) in enumerate(_with_near(rows))],
            notes=notes,
        )

    def markdown(self) -> str:
        """The table, how its figures were measured, what does not compare, and what went wrong."""
        parts = [f"# {self.title}", *([self.about] if self.about else []), aligned(self.lines())]
        told = (self.remarks(), fault_lines(self.rows))
        parts += ["\n".join(f"- {line}" for line in lines) for lines in told if lines]
        return "\n\n".join(parts) + "\n"

    def lines(self) -> list[list[str]]:
        """The table's cells as people read them, the titles first."""
        shown = [column for column in self.columns if column.error_of is None]
        errors = {column.error_of: column.name for column in self.columns if column.error_of}
        lines = [["row", *(column.title for column in shown)]]
        lines += [[row_title(row), *(_cell(row, each, errors.get(each.name)) for each in shown)] for row in self.rows]
        if any(row.same_size_as for row in self.rows):
            lines[0] += ["#", "same size as"]
            for place, row in enumerate(self.rows):
                lines[place + 1] += [str(place + 1), _places(row.same_size_as)]
        return lines

    def remarks(self) -> list[str]:
        """What to know when reading it: the models, how perplexity was measured, and what does not compare."""
        notes = [*model_lines(self.rows), *protocol_lines(self.rows)]
        notes += [f"[{note.number}] {note.message}." for note in self.notes]
        if any(row.same_size_as for row in self.rows):
            notes.append(f"Same size: parameter counts within {SAME_SIZE_FRACTION:.0%} of each other, rows by number.")
        return notes

    def csv(self) -> str:
        """Every figure as it is, a row a line; `notes` holds the numbers of the notes by column."""
        names = [column.name for column in self.columns]
        head = ["name", "id", "labels", "status", *names, "same_size_as", "notes", "error"]
        lines: list[list[Value]] = [[*head]]
        for row in self.rows:
            labels = " ".join(f"{name}={value}" for name, value in row.labels.items())
            marks = " ".join(f"{name}:{'+'.join(map(str, numbers))}" for name, numbers in row.marks.items())
            figures = [row.figures[name] for name in names]
            lines.append(
                [row.name, row.id, labels, row.standing, *figures, _places(row.same_size_as), marks, row.error]
            )
        return comma_separated(lines)

    def told(self, form: TableForm) -> str:
        """The whole of it in one of its forms."""
        if form == "json":
            return self.model_dump_json(indent=2) + "\n"
        return self.markdown() if form == "markdown" else self.csv()

    def write(self, folder: Path) -> None:
        """Write `table.md`, `table.csv` and `table.json` into a folder."""
        write_forms(self.told, folder)


def row_title(row: TableRow) -> str:
    """The row's name, with where it stands unless it succeeded."""
    return row.name if row.status == "succeeded" else f"{row.name} ({row.standing})"


def model_lines(rows: Iterable[TableRow]) -> list[str]:
    """Which models these are, and how large."""
    sizes = {str(row.said("model", "source") or ""): row.results.dense for row in rows}
    return [
        f"Model: {source}, {written(dense.parameters if dense else None, 'count') or 'not measured'} parameters."
        for source, dense in sizes.items()
        if source
    ]


def protocol_lines(rows: Iterable[TableRow]) -> list[str]:
    """How each text was measured; more than one line for a text means that its figures do not compare."""
    protocols = [pair for row in rows for each in models(row) for pair in (each.perplexity_protocol or {}).items()]
    return list(dict.fromkeys(_protocol(text, protocol) for text, protocol in protocols))


def fault_lines(rows: Iterable[TableRow]) -> list[str]:
    """Why rows have no figures, or not all."""
    return [f"**{row.name}**: {row.error}" for row in rows if row.error]


def near_in_size(rows: Sequence[TableRow]) -> list[list[int]]:
    """For each row the places of the others of equal size; see `SAME_SIZE_FRACTION`."""
    counts = [row.counted_parameters for row in rows]
    return [
        [
            other
            for other, count in enumerate(counts)
            if other != place and own and count and abs(own - count) <= SAME_SIZE_FRACTION * max(own, count)
        ]
        for place, own in enumerate(counts)
    ]


def _with_near(rows: Sequence[TableRow]) -> list[tuple[TableRow, list[int]]]:
    return list(zip(rows, near_in_size(rows), strict=True))


def _compared(
    row: TableRow, place: int, columns: Sequence[Column], notes: Sequence[Note], near: list[int]
) -> ComparisonRow:
    figures = {column.name: column.value(row) for column in columns}
    marks = {
        name: numbers
        for name, value in figures.items()
        if value is not None and (numbers := [note.number for note in notes if note.marks(name, place)])
    }
    known = {name: getattr(row, name) for name in TableRow.model_fields}
    return ComparisonRow(**known, figures=figures, marks=marks, same_size_as=near)


def _cell(row: ComparisonRow, column: ColumnTitle, error: str | None) -> str:
    """The figure, its standard error, and the numbers of the notes that it wants read."""
    cell = written(row.figures[column.name], column.form)
    deviation = written(row.figures[error], column.form) if error else ""
    marks = "".join(f" [{number}]" for number in row.marks.get(column.name, []))
    return f"{cell}{f' ± {deviation}' if deviation else ''}{marks}"


def _places(places: Iterable[int]) -> str:
    return " ".join(str(place + 1) for place in places)


def _protocol(text: str, protocol: PerplexityProtocol) -> str:
    return (
        f"Perplexity on {text}: {protocol.windows:,} windows of {protocol.sequence_length:,} tokens, "
        f"weights in {protocol.dtype}, arithmetic in {protocol.arithmetic}, {protocol.batch_size} windows at once."
    )
