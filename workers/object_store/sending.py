"""A local file sent to an object store, digested on the way: what the store holds is what was digested, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from workers.durable import transient
from workers.errors import Transient
from workers.object_store.bucket import PART_BYTES, Bucket

_CHUNK_BYTES = 4 * 1024 * 1024


def digest_of(file: Path) -> tuple[str, int]:
    """A file's SHA-256 and size.

    Raises:
        Transient: it cannot be read.
    """
    with transient(f"{file} could not be read"), file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return sha256, stream.tell()


def send_file(bucket: Bucket, file: Path, path: str, expected_sha256: str | None = None) -> tuple[str, int]:
    """Put a file's bytes; their SHA-256 and size. No more than a few parts are in memory.

    Raises:
        Transient: it cannot be read, is not (any more) what was expected, or cannot be put. Nothing is put then.
    """
    digest = hashlib.sha256()
    sent_bytes = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent_bytes
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                sent_bytes += len(chunk)
                yield chunk
        # Before the store is told that this was all: an upload that breaks off here leaves nothing.
        if expected_sha256 not in (None, digest.hexdigest()):
            raise Transient(f"{file} changed while it was stored; nothing was kept")

    with transient(f"{file} could not be sent to {bucket.url}"):
        size_bytes = file.stat().st_size
        if size_bytes <= PART_BYTES:
            bucket.write(path, b"".join(chunks()))
        else:
            bucket.send(path, chunks(), size_bytes)
    found = bucket.look(path)
    if found is None or found.size_bytes != sent_bytes:
        raise Transient(f"{bucket.url}: {path} was sent with {sent_bytes} bytes, but is not there in full size")
    return digest.hexdigest(), sent_bytes
