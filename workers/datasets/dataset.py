"""What a corpus is, where its files may lie, and how its parts are held apart. Imports no torch."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from workers.contracts.places import Places
from workers.contracts.recipe import DATASETS
from workers.errors import RecipeError

Part = Literal["train", "evaluation"]

FIELD = "data.name"
"""The field that a corpus blames; `load` puts the caller's own in its place."""

_HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Documents:
    """A corpus's part: documents in order, and what stands between two of them."""

    documents: tuple[str, ...]
    separator: str

    @property
    def text(self) -> str:
        """The whole text, as perplexity is measured on it."""
        return self.separator.join(self.documents)

    @property
    def sha256(self) -> str:
        """Digest of the whole text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class Corpus(Protocol):
    """What each module of this package offers, except this one."""

    def load(self, part: Part, places: Places, path: str | None) -> Documents:
        """The part's documents; `path` is given for `text` only.

        Raises:
            RecipeError: the text can be had neither locally nor from the hub, or is malformed.
        """
        ...


def load(name: str, part: Part, places: Places, path: str | None = None, field: str = FIELD) -> Documents:
    """A corpus's training or evaluation part.

    Args:
        name: one of `contracts.recipe.DATASETS`.
        part: `train` or `evaluation`; the two share no document, except those of a `text` with itself.
        places: where local copies lie and which folders a `text` may be read from.
        path: the file of a `text`.
        field: path of the recipe's field that names the corpus, for the error.

    Raises:
        RecipeError: the corpus is unknown, cannot be had, or has no document.
    """
    if name not in DATASETS:
        raise RecipeError(field, f"there is no corpus {name!r}; choose from {', '.join(DATASETS)}")
    corpus: Corpus = importlib.import_module(f"workers.datasets.{name}")
    try:
        found = corpus.load(part, places, path)
    except RecipeError as error:
        blamed = field if path is None or not field.endswith(".name") else f"{field.removesuffix('.name')}.path"
        raise RecipeError(blamed, error.detail) from error
    if not any(document.strip() for document in found.documents):
        raise RecipeError(field, f"the {part} part of {path or name} holds no text")
    return found


def without(train: Documents, held_out: Iterable[Documents]) -> Documents:
    """The training part less every document that an evaluation text holds too; empty documents stay."""
    seen = {_digest(document) for held in held_out for document in held.documents if document.strip()}
    kept = tuple(document for document in train.documents if _digest(document) not in seen)
    return Documents(kept, train.separator)


def is_held_out(key: str) -> bool:
    """Whether a document with this key belongs to the tenth kept for evaluation; the same on every machine."""
    return int(_digest(key)[:8], 16) % _HELD_OUT_ONE_IN == 0


def distinct(items: Iterable[str]) -> list[str]:
    """The items in order, less those that an earlier one equals but for white space."""
    first: dict[str, str] = {}
    for item in items:
        first.setdefault(_digest(item), item)
    return list(first.values())


def _digest(document: str) -> str:
    return hashlib.sha256(" ".join(document.split()).encode()).hexdigest()


def articles(rows: Sequence[str], separator: str) -> Documents:
    """WikiText's rows as whole articles: a row ` = Title = ` begins one. Blank rows go with what precedes them.

    Whole articles, because rows such as ` = = Reception = = ` recur everywhere and would be taken for duplicates.
    """
    grouped: list[list[str]] = [[]]
    for row in rows:
        if _is_title(row) and any(earlier.strip() for earlier in grouped[-1]):
            grouped.append([])
        grouped[-1].append(row)
    return Documents(tuple(separator.join(group) for group in grouped), separator)


def _is_title(row: str) -> bool:
    row = row.strip()
    return len(row) > 4 and row.startswith("= ") and row.endswith(" =") and not row.startswith("= =")


def lines(text: str) -> list[str]:
    """The text's lines with their newlines; only a line feed ends one, unlike `str.splitlines`."""
    found = text.split("\n")
    return [line + "\n" for line in found[:-1]] + ([found[-1]] if found[-1] else [])


def local_files(places: Places, *patterns: str) -> list[Path]:
    """The files of the first pattern that matches any, in the first folder of DRESS_DATA_DIR that holds some.

    Patterns are relative to the folder. A packed copy (`.gz`) stands in for a file that is not there as it is.
    Sorted by name; empty if there is none.
    """
    for folder in (Path(text).expanduser() for text in places.data_dirs):
        for pattern in patterns:
            packed = {file.with_suffix(""): file for file in folder.glob(pattern + ".gz")}
            plain = {file: file for file in folder.glob(pattern) if file.suffix != ".gz"}
            found = packed | plain
            if found:
                return [found[name] for name in sorted(found)]
    return []


def read_text(file: Path) -> str:
    """A UTF-8 file's text, newlines as they stand; `.gz` is unpacked.

    Raises:
        RecipeError: the file cannot be read or is not UTF-8; the message names the byte.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            FIELD, f"{file} is not UTF-8 at byte {error.start} ({error.reason}); convert it to UTF-8"
        ) from error
    except (OSError, EOFError) as error:
        raise RecipeError(FIELD, f"{file} cannot be read: {error}") from error


def read_json_rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list, or of a file with one JSON object a line.

    Raises:
        RecipeError: the file is neither.
    """
    text = read_text(file)
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in _filled(text)]
    except json.JSONDecodeError as error:
        raise RecipeError(FIELD, f"{file} is no JSON: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise RecipeError(FIELD, f"{file} holds something else than JSON objects")
    return rows


def _filled(text: str) -> Iterator[str]:
    return (line for line in text.split("\n") if line.strip())
