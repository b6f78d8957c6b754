"""Uploaded texts in the folder of an artifact store: drafts beside those of the store, whole ones by digest."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from workers.durable import place, sync, transient
from workers.errors import Transient

_CHUNK_BYTES = 4 * 1024 * 1024


class LocalDraft:
    """Implements `contracts.store.Draft` as a file."""

    def __init__(self, file: Path, stream: BinaryIO, place_of: Callable[[str], Path]) -> None:
        self._file, self._stream, self._place_of = file, stream, place_of
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Add bytes; see `Draft.write`."""
        with transient("the upload could not be written"):
            self._stream.write(chunk)
        self._digest.update(chunk)

    def seal(self) -> str:
        """Have it all on disk; see `Draft.seal`."""
        with transient("the upload could not be written"):
            sync(self._stream)
        return self._digest.hexdigest()

    def keep(self) -> None:
        """Make it readable; see `Draft.keep`. Bytes already there may be damaged: these are not."""
        with transient("the upload could not be kept"):
            place(self._file, self._place_of(self._digest.hexdigest()))


class LocalUploads:
    """Implements `contracts.store.Uploads` in a store's folder. Cheap to make and to pickle."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, sha256: str) -> Path:
        """Where the bytes of this digest lie, or would lie."""
        return self.root / "uploads" / sha256[:2] / sha256

    @contextmanager
    def drafting(self) -> Iterator[LocalDraft]:
        """A new draft; see `Uploads.drafting`. The store's sweep takes what a killed process left."""
        file = self.root / "drafts" / uuid.uuid4().hex
        with transient("no upload can be begun"):
            file.parent.mkdir(parents=True, exist_ok=True)
            stream = file.open("xb")
        try:
            yield LocalDraft(file, stream, self.path_of)
        finally:
            with suppress(OSError):  # what is still in the buffer of a draft that nobody keeps
                stream.close()
            file.unlink(missing_ok=True)

    def holds(self, sha256: str) -> bool:
        """Whether there are bytes with this digest."""
        return self.path_of(sha256).is_file()

    def fetch(self, sha256: str, file: Path) -> None:
        """Copy the bytes to this place, verified; see `Uploads.fetch`."""
        digest = hashlib.sha256()
        with transient(f"the uploaded text {sha256} could not be fetched"):
            file.parent.mkdir(parents=True, exist_ok=True)
            with self.path_of(sha256).open("rb") as reading, file.open("wb") as writing:
                while chunk := reading.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    writing.write(chunk)
        if digest.hexdigest() != sha256:
            file.unlink(missing_ok=True)
            raise Transient(f"the stored bytes of the uploaded text {sha256} are damaged (disk?); upload it again")

    def digests(self, older_than_seconds: float) -> list[str]:
        """Digests of the bytes that came in so long ago or earlier; see `Uploads.digests`."""
        latest = time.time() - older_than_seconds
        with transient("the uploads could not be listed"):
            found = sorted((self.root / "uploads").glob("??/*"))
            return [file.name for file in found if file.stat().st_mtime <= latest]

    def discard(self, sha256: str) -> None:
        """Remove the bytes, if there are any."""
        with transient(f"the uploaded text {sha256} could not be removed"):
            self.path_of(sha256).unlink(missing_ok=True)
