"""What keeps figures from being compared: rows measured otherwise are marked, and a note says how. Imports no torch.

Rows fall into classes by how a kind of figure was measured. The largest class (of equals the first) is the table's own;
figures of the others carry the number of a note.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workers.comparison.columns import models, scores, tasks_of, texts_of
from workers.comparison.row import TableRow
from workers.contracts.base import Contract
from workers.contracts.results import PerplexityProtocol

Cause = Literal["dense_model", "perplexity_protocol", "task_protocol", "speed_protocol", "machine"]

Terms = Mapping[str, Hashable]
"""How something was measured: what is to be equal, by its name in words."""


class Note(Contract):
    """Why marked figures do not compare with those of the other rows."""

    number: int
    """What the marked cells carry, from 1."""
    cause: Cause
    """What differs, as a stable name."""
    columns: list[str]
    """The columns of the marked figures; a name stands for all that begin with it."""
    rows: list[int]
    """The rows whose figures are marked, by their places from 0."""
    message: str
    """What differs, and from what."""

    def marks(self, column: str, place: int) -> bool:
        """Whether this figure carries the note's number."""
        return place in self.rows and any(column == each or column.startswith(f"{each}.") for each in self.columns)


@dataclass(frozen=True)
class _Rule:
    """A kind of figure, and what must be equal for it to compare."""

    cause: Cause
    columns: list[str]
    subject: str
    """What the message begins with."""
    terms: Callable[[TableRow], Terms | None]
    """None for a row without such a figure."""
    advice: str = ""


def notes_of(rows: Sequence[TableRow]) -> list[Note]:
    """All that keeps these rows' figures from being compared, a note for each class of rows and kind of figure."""
    notes: list[Note] = []
    for rule in _rules(rows):
        for members, message in _strangers(rule, rows):
            notes.append(
                Note(number=len(notes) + 1, cause=rule.cause, columns=rule.columns, rows=members, message=message)
            )
    return notes


def _rules(rows: Sequence[TableRow]) -> Iterator[_Rule]:
    yield _Rule(
        "dense_model",
        ["parameters_fraction", "perplexity", "tasks", "speed.generation.ratio", "speed.prompt.ratio"],
        "another dense model",
        _dense_model,
        "its figures tell of that model first; compare them with rows of the same one",
    )
    for text in texts_of(rows):
        yield _Rule("perplexity_protocol", [f"perplexity.{text}"], f"perplexity on {text}", _perplexity_terms(text))
    for task in tasks_of(rows):
        yield _Rule("task_protocol", [f"tasks.{task}"], f"task {task}", _task_terms(task))
    yield _Rule("speed_protocol", ["speed"], "speed", _speed_terms)
    yield _Rule("machine", ["seconds", "gpu_hours", "peak_bytes"], "cost", _resources)


@dataclass
class _Class:
    """Rows whose figures of a kind were measured alike."""

    terms: Terms
    places: list[int] = field(default_factory=list)


def _strangers(rule: _Rule, rows: Sequence[TableRow]) -> list[tuple[list[int], str]]:
    """The classes beside the largest: their rows' places, and the words that tell how they differ from it."""
    classes: list[_Class] = []
    for place, row in enumerate(rows):
        terms = rule.terms(row)
        if terms is None:
            continue
        known = next((each for each in classes if _alike(each.terms, terms)), None)
        if known is None:
            known = _Class(terms)
            classes.append(known)
        known.places.append(place)
    if len(classes) < 2:
        return []
    own = max(classes, key=lambda each: len(each.places))  # of equals the first
    told = []
    for other in classes:
        if other is not own:
            advice = f"; {rule.advice}" if rule.advice else ""
            told.append((other.places, f"{rule.subject}: {_difference(other.terms, own.terms)}{advice}"))
    return told


def _alike(terms: Terms, others: Terms) -> bool:
    """Whether all that both tell is equal."""
    return all(terms[name] == others[name] for name in terms.keys() & others.keys())


def _difference(terms: Terms, own: Terms) -> str:
    """What differs in words, such as `windows 4 instead of 12`."""
    names = [name for name in own if name in terms and own[name] != terms[name]]
    return ", ".join(f"{name} {_word(terms[name])} instead of {_word(own[name])}" for name in names)


def _word(value: Hashable) -> str:
    text = "unknown" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text  # a digest is known by its beginning


def _dense_model(row: TableRow) -> Terms | None:
    """The dense weights by digest; before they are measured by name."""
    dense = row.results.dense
    if dense is None:
        return None
    return {"weights": dense.weights_digest} if dense.weights_digest else {"model": row.said("model", "source")}


def _perplexity_terms(text: str) -> Callable[[TableRow], Terms | None]:
    def terms(row: TableRow) -> Terms | None:
        measured = [each for each in models(row) if text in (each.perplexity or {})]
        told = (protocol for each in measured if (protocol := (each.perplexity_protocol or {}).get(text)))
        return _protocol_terms(next(told, None)) if measured else None

    return terms


_PROTOCOL = {
    "text": "text_sha256",
    "tokens of the text": "tokens",
    "windows": "windows",
    "window length": "sequence_length",
    "weights": "dtype",
    "arithmetic": "arithmetic",
}
"""All that decides a perplexity; how many windows are computed at once changes rounding alone."""


def _protocol_terms(protocol: PerplexityProtocol | None) -> Terms:
    return {words: getattr(protocol, name, None) for words, name in _PROTOCOL.items()}


_TASK = {
    "metric": "metric",
    "questions": "n",
    "examples before each": "num_fewshot",
    "definition": "version",
    "rows": "rows_digest",
}
"""All that decides a score besides the model."""


def _task_terms(task: str) -> Callable[[TableRow], Terms | None]:
    def terms(row: TableRow) -> Terms | None:
        found = next((scores(each)[task] for each in models(row) if task in scores(each)), None)
        return {words: getattr(found, name) for words, name in _TASK.items()} if found else None

    return terms


def _speed_terms(row: TableRow) -> Terms | None:
    speed = row.final.speed if row.final else None
    if speed is None:
        return None
    return {
        "machine": speed.machine or speed.device,
        "threads": speed.threads,
        "batch": speed.batch_size,
        "new tokens": speed.new_tokens,
        "prompt tokens": speed.prompt_tokens,
        "arithmetic": speed.arithmetic,
        "attention": speed.attention,
    }


def _resources(row: TableRow) -> Terms | None:
    if row.seconds is None and row.peak_bytes is None:
        return None
    speed = row.final.speed if row.final else None
    asked = {"GPUs": row.said("resources", "gpus"), "CPU cores": row.said("resources", "cpus")}
    return {**asked, "machine": speed.machine or speed.device} if speed else asked
