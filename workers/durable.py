"""Files that survive a power cut, and the file system's troubles told as faults that pass."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from workers.errors import StorageFull, Transient

_CHUNK_BYTES = 4 * 1024 * 1024


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


def write_durably(text: str, target: Path) -> None:
    """Write a small text to a new place, on disk when this returns."""
    with target.open("xb") as stream:
        stream.write(text.encode())
        sync(stream)


def place(draft: Path, target: Path) -> None:
    """Make a whole draft visible under its name, for good."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(draft, target)
    sync_folder(target.parent)


def copy_durably(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file to a new place, on disk when this returns; the SHA-256 and size of what was copied."""
    digest = hashlib.sha256()
    size_bytes = 0
    with source.open("rb") as reading, target.open("xb") as writing:
        while chunk := reading.read(_CHUNK_BYTES):
            digest.update(chunk)
            writing.write(chunk)
            size_bytes += len(chunk)
        sync(writing)
    return digest.hexdigest(), size_bytes


def private_folder(folder: Path) -> Path:
    """A folder that nobody else can write to, among files of everybody.

    Raises:
        PermissionError: somebody has put something there first: a link, or a folder of theirs.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a private folder of this user; remove it or set another TMPDIR")
    return folder


class Damaged(Exception):  # answered where it is raised: what is damaged is not used
    """A checkpoint's bytes are not those that were written."""


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
