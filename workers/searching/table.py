"""A search's table, a line a trial, best first: Markdown for people, CSV and JSON for programs. Imports no torch.

SearchTable(title: str, search: Search, rows: Sequence[TrialRow])
    .best -> int | None    .frontier -> list[int]    .ordered -> list[TrialRow]
    .counts -> dict[TrialStatus, int]    .work -> Work(spent_seconds, avoided_seconds, gpu_seconds)
    .lines() -> list[list[str]]    cells as people read them, titles first; for the terminal too
    .remarks() -> list[str]    what is sought, best, frontier, counts, work
    .faults() -> list[str]    why trials failed
    .markdown() / .csv() / .json() -> str    .told(form: TableForm) -> str    .write(folder: Path)
TrialRow, rows_of, row_of_wire    see `workers.searching.row`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from workers.comparison.row import quotient
from workers.contracts.search import Search
from workers.contracts.trials import TrialFinished
from workers.searching.columns import Column, columns_of, field_titles, standing_of
from workers.searching.ranking import best, frontier
from workers.searching.row import TrialRow, TrialStatus, row_of_wire, rows_of, shown_setting
from workers.written import TableForm, Value, aligned, comma_separated, write_forms, written

__all__ = ["SearchTable", "TrialRow", "TrialStatus", "Work", "row_of_wire", "rows_of"]

UNTITLED = "Search"
"""The title of a search that has none."""

_ORDER: tuple[TrialStatus, ...] = ("succeeded", "stopped", "running", "waiting", "failed")
"""Trials without a figure to go by stand in this order."""

_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class Work:
    """What a search's trials cost, and what they did not."""

    spent_seconds: float
    """Trials were under way for so long, all together."""
    avoided_seconds: float
    """What the stages cost that they found instead of computing them."""
    gpu_seconds: float
    avoided_by_stage: dict[str, float] = field(default_factory=dict)
    """`avoided_seconds` by stage, the most first."""

    @property
    def avoided_fraction(self) -> float | None:
        """What was avoided, of what all would have cost; None before anything did."""
        return quotient(self.avoided_seconds, self.spent_seconds + self.avoided_seconds)


@dataclass(frozen=True)
class SearchTable:
    """All trials of a search side by side."""

    title: str
    search: Search
    rows: Sequence[TrialRow]

    @cached_property
    def best(self) -> int | None:
        """Number of the best trial; see `workers.searching.ranking`."""
        return best(self.search, self._competing())

    @cached_property
    def frontier(self) -> list[int]:
        """Numbers of the trials that no other beats, by the first objective."""
        return frontier(self.search, self._competing())

    @property
    def ordered(self) -> list[TrialRow]:
        """By the first objective, best first; then those that have no such figure, failed ones last."""
        return sorted(self.rows, key=self._rank)

    @property
    def counts(self) -> dict[TrialStatus, int]:
        """How many trials stand where; those statuses that any has."""
        counted = Counter(row.status for row in self.rows)
        return {status: counted[status] for status in _ORDER if counted[status]}

    @property
    def work(self) -> Work:
        """What it cost so far."""
        by_stage: Counter[str] = Counter()
        for row in self.rows:
            by_stage.update(row.avoided_by_stage)
        return Work(
            spent_seconds=sum(row.seconds or 0.0 for row in self.rows),
            avoided_seconds=sum(row.avoided_seconds or 0.0 for row in self.rows),
            gpu_seconds=sum(row.gpu_seconds or 0.0 for row in self.rows),
            avoided_by_stage=dict(by_stage.most_common()),
        )

    def standing(self, row: TrialRow) -> str:
        """`best`, `frontier`, or nothing."""
        return "best" if row.trial == self.best else "frontier" if row.trial in self.frontier else ""

    def markdown(self) -> str:
        """The table with its title, what is sought and found, what it cost, and what went wrong."""
        parts = [f"# {_line(self.title or UNTITLED)}", aligned(self.lines())]
        parts += ["\n".join(f"- {line}" for line in told) for told in (self.remarks(), self.faults()) if told]
        return "\n\n".join(parts) + "\n"

    def lines(self) -> list[list[str]]:
        """The table's cells as people read them, the titles first."""
        columns = [column for column in self._columns() if column.is_brief]
        return [[column.title for column in columns], *([each.cell(row) for each in columns] for row in self.ordered)]

    def remarks(self) -> list[str]:
        """What is sought under which constraints, what was found, where the trials stand, and what they cost."""
        sought = " and ".join(f"{each.metric} {each.mode}" for each in self.search.objectives)
        kept = "; ".join(constraint.told() for constraint in self.search.constraints)
        told = [f"Sought: {sought}.", *([f"Constraints: {kept}."] if kept else []), self._best_in_words()]
        if len(self.search.objectives) > 1 and self.frontier:
            told.append(f"Frontier, which no trial beats in every objective: {_numbers(self.frontier)}.")
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        told.append(f"{_count(len(self.rows), 'trial')}{f': {counts}' if counts else ''}.")
        return [*told, self._work_in_words()]

    def faults(self) -> list[str]:
        """Why trials failed."""
        failed = [row for row in self.ordered if row.status == "failed"]
        return [f"**trial {row.trial}**: {_line(row.message or 'it failed without a word')}" for row in failed]

    def csv(self) -> str:
        """Every figure as it is, a trial a line."""
        columns = self._columns()
        head: list[Value] = [column.name for column in columns]
        return comma_separated([head, *([column.value(row) for column in columns] for row in self.ordered)])

    def json(self) -> str:
        """All of it: the search, what was found, what it cost, and the rows in the table's order."""
        plain = {
            "object": "search_table",
            "title": self.title or UNTITLED,
            "search": self.search.model_dump(mode="json"),
            "objectives": [each.model_dump(mode="json") for each in self.search.objectives],
            "best": self.best,
            "frontier": self.frontier,
            "counts": self.counts,
            "work": {**asdict(self.work), "avoided_fraction": self.work.avoided_fraction},
            "rows": [{**row.model_dump(mode="json"), "standing": self.standing(row) or None} for row in self.ordered],
        }
        return _JSON.dump_json(plain, indent=2).decode() + "\n"

    def told(self, form: TableForm) -> str:
        """The whole of it in one of its forms."""
        return self.json() if form == "json" else self.markdown() if form == "markdown" else self.csv()

    def write(self, folder: Path) -> None:
        """Write `table.md`, `table.csv` and `table.json` into a folder."""
        write_forms(self.told, folder)

    def _competing(self) -> list[TrialFinished]:
        return [found for row in self.rows if (found := row.competing(self.search))]

    def _rank(self, row: TrialRow) -> tuple[bool, int, list[float], int]:
        values = [(each, row.values.get(each.metric)) for each in self.search.objectives]
        known = [each.better(value) if value is not None else float("inf") for each, value in values]
        return known[0] == float("inf"), _ORDER.index(row.status), known, row.trial

    def _best_in_words(self) -> str:
        found = next((row for row in self.rows if row.trial == self.best), None)
        if found is None:
            return f"Best: none{_why_none(self.rows)}."
        titles = field_titles(self.search.space)
        settings = [(title, shown_setting(field, found.setting(self.search, field))) for field, title in titles.items()]
        return f"Best: trial {found.trial}, {', '.join(f'{title} {value}' for title, value in settings)}."

    def _work_in_words(self) -> str:
        work = self.work
        share = f" ({work.avoided_fraction:.1%} of both)" if work.avoided_fraction is not None else ""
        spent, avoided = (written(each, "seconds") for each in (work.spent_seconds, work.avoided_seconds))
        by_stage = ", ".join(f"{stage} {written(cost, 'seconds')} s" for stage, cost in work.avoided_by_stage.items())
        told = f"{avoided} s avoided by stages that were found and not computed{share}"
        return f"Work: {spent} s in trials, {told}{f': {by_stage}' if by_stage else ''}."

    def _columns(self) -> list[Column]:
        return [
            Column("trial", "trial", "plain", lambda row: row.trial, self._marked),
            Column("status", "status", "plain", lambda row: row.status, standing_of),
            Column("standing", "", "plain", self.standing, is_brief=False),
            *columns_of(self.search, self.rows),
        ]

    def _marked(self, row: TrialRow) -> str:
        standing = self.standing(row)
        return f"{row.trial} ({standing})" if standing else str(row.trial)


def _why_none(rows: Sequence[TrialRow]) -> str:
    succeeded = any(row.status == "succeeded" for row in rows)
    return "; no trial that succeeded was measured with every constraint kept" if succeeded else ""


def _numbers(trials: Sequence[int]) -> str:
    return f"{'trial' if len(trials) == 1 else 'trials'} {', '.join(map(str, trials))}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _line(text: str) -> str:
    return " ".join(text.split())
