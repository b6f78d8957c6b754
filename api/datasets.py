"""The bodies of uploaded data sets, as server and client say them; they know REST and nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from api.schemas import Answer, Page

EXAMPLE_DATASET: dict[str, Any] = {
    "id": "dataset_01jdm9q4y8zk3v7n5r2t6w0xbc",
    "object": "dataset",
    "created_at": "2026-11-23T20:58:00Z",
    "name": "support-tickets.txt",
    "size_bytes": 18350080,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}


class Dataset(Answer):
    """A text that was uploaded, in UTF-8. Recipes name it as `{name: text, dataset: ID}`. It never changes."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_DATASET]})

    id: str
    object: Literal["dataset"] = "dataset"
    created_at: datetime
    name: str
    """What it was called when it was uploaded."""
    size_bytes: int
    sha256: str
    """Hexadecimal digest of the bytes. Data sets with one digest share them, and their stages' results too."""


class DatasetList(Page[Dataset]):
    """Data sets, newest first."""
