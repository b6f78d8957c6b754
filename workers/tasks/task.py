"""What a local task is: rows of contexts and continuations, told from files under DRESS_DATA_DIR. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from workers.contracts.places import Places
from workers.contracts.tasks import PAPER_METRICS, WantedTask
from workers.datasets.dataset import local_files, read_json_rows
from workers.errors import RecipeError

FIELD = "evaluate.tasks"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A question: either one context and a continuation a choice, or a context a choice and one continuation."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    """As the official task has them; a blank goes before each when they are scored."""
    gold: int
    """Index of the right choice."""


@dataclass(frozen=True)
class Rows:
    """A task's rows as read from this machine."""

    rows: tuple[Row, ...]
    examples: tuple[Row, ...]
    """Solved examples to draw few-shot contexts from; empty where none are wanted."""
    source: str
    """The files, relative to their folder of DRESS_DATA_DIR."""

    @property
    def sha256(self) -> str:
        """Digest of all rows and examples, whatever form their files have."""
        plain = [[(row.contexts, row.continuations, row.gold) for row in part] for part in (self.rows, self.examples)]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


class LocalTask(Protocol):
    """What each module of this package that is named as a task offers."""

    FILES: tuple[str, ...]
    """Files with the evaluated rows, relative to a folder of DRESS_DATA_DIR, the best first; `.gz` is unpacked."""
    SPLIT: Literal["validation", "test"]
    """The split that the official task evaluates; lm-eval draws examples otherwise where it is `test`."""
    EXAMPLES: tuple[str, ...]
    """Files with the training split, for few-shot contexts."""

    def row(self, record: Record) -> Row:
        """The row of a record.

        Raises:
            KeyError, TypeError, ValueError: the record has another form; the message says what is missing.
        """
        ...


def local_task(name: str) -> LocalTask:
    """The module of a task; `name` is one of `PAPER_METRICS`."""
    task: LocalTask = importlib.import_module(f"workers.tasks.{name}")
    return task


def load_local(wanted: WantedTask, places: Places) -> Rows | None:
    """The task's rows from local files; None where there are none, or where the task is not one of ours.

    Raises:
        RecipeError: a file is malformed (no label, say), holds no row, or examples are wanted and not there.
    """
    if wanted.name not in PAPER_METRICS:
        return None
    task = local_task(wanted.name)
    files = local_files(places, *task.FILES)
    if not files:
        return None
    rows = _read(files, task.row, wanted)
    examples: tuple[Row, ...] = ()
    if wanted.num_fewshot:
        example_files = local_files(places, *task.EXAMPLES)
        if not example_files:
            raise RecipeError(
                wanted.field,
                f"{wanted.num_fewshot} examples of {wanted.name} are wanted and no {' or '.join(task.EXAMPLES)} lies "
                "under a folder of DRESS_DATA_DIR; put the training split there, or set num_fewshot to 0",
            )
        examples = _read(example_files, task.row, wanted)
        files = [*files, *example_files]
    return Rows(rows, examples, ", ".join(_relative(file, places) for file in files))


def digest(rows: Rows) -> str:
    """Digest of all that decides a task's figures but the model and the recipe: its rows, and lm-eval's version.

    Raises:
        importlib.metadata.PackageNotFoundError: lm-eval is not installed here.
    """
    return hashlib.sha256(f"{rows.sha256} {harness_version()}".encode()).hexdigest()


def harness_version() -> str:
    """Of the installed lm-eval.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed here.
    """
    return version("lm_eval")


def question_row(record: Record, ending: str = "") -> Row:
    """A row of the form `{query, choices, gold}`; `ending` is what the official prompt adds to the query."""
    choices = _texts(record["choices"])
    return choice_row(f"{record['query']}{ending}", choices, record["gold"])


def choice_row(context: str, choices: Sequence[str], label: Any) -> Row:
    """One context, a continuation a choice.

    Raises:
        ValueError: fewer than two choices, an empty one, or a label that names none of them.
    """
    return Row((context,), tuple(choices), gold_index(label, len(choices)))


def gold_index(label: Any, choices: int, first: int = 0) -> int:
    """The index that a label (a number or its digits, counted from `first`) means.

    Raises:
        ValueError: it is missing, or names no choice.
    """
    if isinstance(label, bool) or not str(label).lstrip("-").isdecimal():
        raise ValueError(f"its label is {label!r} and must be a number")
    index = int(label) - first
    if not 0 <= index < choices:
        raise ValueError(f"its label is {label!r} and there are {choices} choices")
    return index


def question(text: str) -> str:
    """The official prompt of PIQA and ARC."""
    return f"Question: {text}\nAnswer:"


def arc_row(record: Record) -> Row:
    """A row of ARC, in the hub's form, AI2's own, or `{query, choices, gold}`."""
    if "query" in record:
        return question_row(record, ending="\nAnswer:")
    if isinstance(record["question"], Mapping):
        choices, text = record["question"]["choices"], record["question"]["stem"]
        labels, texts = [choice["label"] for choice in choices], [choice["text"] for choice in choices]
    else:
        labels, texts, text = record["choices"]["label"], record["choices"]["text"], record["question"]
    if record["answerKey"] not in labels:
        raise ValueError(f"its answerKey is {record['answerKey']!r} and its choices are {labels}")
    return choice_row(question(text), _texts(texts), labels.index(record["answerKey"]))


def _texts(choices: Any) -> list[str]:
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) and text for text in choices):
        raise ValueError("its choices must be a list of two or more texts, none of them empty")
    return choices


def _read(files: Sequence[Path], row_of: Callable[[Record], Row], wanted: WantedTask) -> tuple[Row, ...]:
    found: list[Row] = []
    for file in files:
        try:
            records = read_json_rows(file)
        except RecipeError as error:
            raise RecipeError(wanted.field, error.detail) from error
        for number, record in enumerate(with_labels(file, records, wanted.field), start=1):
            try:
                found.append(row_of(record))
            except KeyError as error:
                reason = f"it has no {error}; its fields are {', '.join(sorted(record)) or 'none'}"
                raise _malformed(wanted, file, number, reason) from error
            except (TypeError, ValueError, AttributeError) as error:
                raise _malformed(wanted, file, number, str(error)) from error
    if not found:
        raise RecipeError(wanted.field, f"{files[0]} holds no row of {wanted.name}")
    return tuple(found)


def with_labels(file: Path, records: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The records, with the labels of the file that official releases put beside them (`valid-labels.lst`), if any.

    Raises:
        RecipeError: there are more or fewer labels than rows.
    """
    name = file.name.removesuffix(".gz").removesuffix(".jsonl")
    beside = file.with_name(f"{name}-labels.lst")
    if not beside.is_file():
        return records
    labels = beside.read_text("utf-8").split()
    if len(labels) != len(records):
        raise RecipeError(field, f"{beside} has {len(labels)} labels and {file} has {len(records)} rows")
    return [{**record, "label": label} for record, label in zip(records, labels, strict=True)]


def _malformed(wanted: WantedTask, file: Path, number: int, reason: str) -> RecipeError:
    return RecipeError(wanted.field, f"row {number} of {file} is no row of {wanted.name}: {reason}")


def _relative(file: Path, places: Places) -> str:
    for folder in (Path(text).expanduser() for text in places.data_dirs):
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix()
    return file.name
