"""Files that survive a power cut, and the file system's troubles told as faults that pass."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from workers.errors import StorageFull, Transient


def sync(stream: BinaryIO) -> None:
    """Have what was written on disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place(draft: Path, target: Path) -> None:
    """Make a whole draft visible under its name, for good."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(draft, target)
    sync_folder(target.parent)


@contextmanager
def transient(what: str) -> Iterator[None]:
    """Report the file system's troubles with a remedy.

    Raises:
        StorageFull: there is no room.
        Transient: any other `OSError` in the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{what}: {error}; free space on that disk") from error
        raise Transient(f"{what}: {error}; check that the folder is there and writable") from error
