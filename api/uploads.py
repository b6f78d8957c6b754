"""Brings texts to the server as data sets: streamed from the file, and repeated from its start if the way breaks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

import httpx2

from api.datasets import Dataset, DatasetList

UPLOAD_SECONDS = 600.0
"""How long the server may take to have a large text on disk."""

_ROOT = "/v1/datasets"


class Connection(Protocol):
    """What an upload needs of the client."""

    def send(
        self,
        method: str,
        path: str,
        *,
        content: Callable[[], AbstractContextManager[IO[bytes]]] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wait_seconds: float = 0,
    ) -> httpx2.Response:
        """One request that is safe to repeat, repeated until it is answered."""
        ...


class Datasets:
    """What can be done with data sets."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def upload(self, file: Path, *, name: str | None = None, idempotency_key: str | None = None) -> Dataset:
        """Upload a text in UTF-8; the same bytes under the same name are the data set that is there already.

        Args:
            name: what to call it; the file's own name if left out.

        Raises:
            Invalid: it is not UTF-8, or holds no text.
            Refused: it is too large (413), or the server has no room (507).
            OSError: the file cannot be read.
        """
        headers = {"Content-Type": "text/plain; charset=utf-8", "Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        answer = self._client.send(
            "POST",
            _ROOT,
            content=lambda: file.open("rb"),
            params={"name": name or file.name},
            headers=headers,
            wait_seconds=UPLOAD_SECONDS,
        )
        return Dataset.model_validate_json(answer.content)

    def get(self, dataset_id: str) -> Dataset:
        """A data set."""
        return Dataset.model_validate_json(self._client.send("GET", _path(dataset_id)).content)

    def list(
        self,
        *,
        limit: int = 50,
        after: str | None = None,
        name: str | None = None,
        sha256: str | None = None,
        created_after: str | None = None,
    ) -> DatasetList:
        """Data sets, newest first."""
        params = {"limit": limit, "after": after, "name": name, "sha256": sha256, "created_after": created_after}
        return DatasetList.model_validate_json(self._client.send("GET", _ROOT, params=params).content)

    def delete(self, dataset_id: str) -> None:
        """Delete a data set.

        Raises:
            Missing: there is none; also if an earlier try of this call deleted it and its answer was lost.
            InConflict: a job that has not ended refers to it.
        """
        self._client.send("DELETE", _path(dataset_id))


def _path(dataset_id: str) -> str:
    return f"{_ROOT}/{quote(dataset_id, safe='')}"
