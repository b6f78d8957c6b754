"""The table that a study fills, a line a row: Markdown for people, CSV and JSON for programs. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from workers.comparison.comparison import Comparison
from workers.comparison.row import RowStatus, TableRow
from workers.contracts.base import Contract

__all__ = ["RowStatus", "StudyTable", "TableRow"]


class StudyTable(Contract):
    """All rows, in order."""

    title: str
    about: str
    rows: list[TableRow]

    @property
    def is_complete(self) -> bool:
        """Whether every row succeeded."""
        return all(row.status == "succeeded" for row in self.rows)

    def compared(self) -> Comparison:
        """The rows side by side with all their figures; `markdown` shows those that a study wants first."""
        return Comparison.of(self.rows, title=self.title, about=self.about)

    def markdown(self) -> str:
        """The table with its title, how perplexity was measured, what does not compare, and what went wrong."""
        return Comparison.of(self.rows, title=self.title, about=self.about, is_brief=True).markdown()

    def write(self, folder: Path) -> None:
        """Write `table.md`, `table.csv` and `table.json` into a folder."""
        (folder / "table.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "table.csv").write_text(self.compared().told("csv"), encoding="utf-8", newline="")
        (folder / "table.json").write_text(self.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
