"""The campaign's history: what was asked, done and broken, one JSON object a line, written by several processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLACE = "DRESS_CAMPAIGN_HISTORY"
"""Environment variable with the history's path."""

Fact = dict[str, Any]
"""`what`, `at` (seconds since 1970 by this machine's clock) and fields of its own."""


class History:
    """Appends facts. Each is one write, so that a process killed meanwhile leaves no half of a line."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, what: str, **fields: Any) -> None:
        """Write one fact down."""
        line = json.dumps({"what": what, "at": time.time(), **fields}) + "\n"
        os.write(self._descriptor, line.encode())

    def close(self) -> None:
        os.close(self._descriptor)


class Tail:
    """Reads what is new in a history."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("rb")
        self._rest = b""

    def read(self) -> list[Fact]:
        """The facts that came since the last call."""
        *lines, self._rest = (self._rest + self._stream.read()).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self._stream.close()


def facts(file: Path) -> Iterator[Fact]:
    """All that a history tells, in the order in which it was written."""
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
