"""Uploaded texts in an object store: drafts under names of their own, whole ones by digest."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workers.errors import Transient
from workers.object_store.bucket import Bucket
from workers.object_store.node_cache import NodeCache, WrongBytes

if TYPE_CHECKING:
    from obstore import WritableFile

_STALE_DRAFT_SECONDS = 24 * 3600.0

log = logging.getLogger(__name__)


class ObjectDraft:
    """Implements `contracts.store.Draft` as an object of its own, sent part by part while the text comes in."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        self._bucket, self._path = bucket, path
        self._writer: WritableFile | None = bucket.writer(path)
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Add bytes; see `Draft.write`."""
        assert self._writer is not None  # noqa: S101  nothing is written after the seal
        with self._bucket.passing("the upload could not be written"):
            self._writer.write(chunk)
        self._digest.update(chunk)

    def seal(self) -> str:
        """Have it all in the store; see `Draft.seal`."""
        self.close()
        return self._digest.hexdigest()

    def keep(self) -> None:
        """Make it readable; see `Draft.keep`. Bytes already there may be damaged: these are not."""
        draft = self._bucket.look(self._path)
        if draft is None:
            raise Transient(f"{self._bucket.url}: the upload is gone before it was kept; upload it again")
        self._bucket.copy(draft, _path(self._digest.hexdigest()))

    def close(self) -> None:
        """Complete the object."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._bucket.passing("the upload could not be written"):
                writer.close()


class ObjectUploads:
    """Implements `contracts.store.Uploads` under a bucket's `uploads/`."""

    def __init__(self, bucket: Bucket, cache: Callable[[], NodeCache]) -> None:
        self._bucket, self._cache = bucket, cache

    @contextmanager
    def drafting(self) -> Iterator[ObjectDraft]:
        """A new draft; see `Uploads.drafting`. The store's sweep takes what a killed process left."""
        path = f"incoming/{uuid.uuid4().hex}"
        draft = ObjectDraft(self._bucket, path)
        try:
            yield draft
        finally:
            try:
                # Completed even if nobody wants it: parts without an object could be neither seen nor removed.
                draft.close()
                self._bucket.delete(path)
            except Transient as error:
                log.warning("a draft stays until it is swept: %s", error)

    def holds(self, sha256: str) -> bool:
        """Whether there are bytes with this digest."""
        return self._bucket.look(_path(sha256)) is not None

    def fetch(self, sha256: str, file: Path) -> None:
        """Place the bytes, verified; see `Uploads.fetch`."""
        found = self._bucket.look(_path(sha256))
        if found is None:
            raise Transient(f"the uploaded text {sha256} is missing from {self._bucket.url}; upload it again")
        try:
            self._cache().place(
                "uploads", sha256, file, lambda first: self._bucket.parts(found.path, first, found.size_bytes)
            )
        except WrongBytes as error:
            raise Transient(f"the stored bytes of the uploaded text {sha256} are damaged; upload it again") from error

    def digests(self, older_than_seconds: float) -> list[str]:
        """Digests of the bytes that came in so long ago or earlier; see `Uploads.digests`."""
        latest = time.time() - older_than_seconds
        found = [each for each in self._bucket.listed("uploads") if each.modified_seconds <= latest]
        return sorted(each.path.rpartition("/")[2] for each in found)

    def discard(self, sha256: str) -> None:
        """Remove the bytes, if there are any."""
        self._bucket.delete(_path(sha256))

    def sweep(self, now_seconds: float) -> None:
        """Remove drafts that a killed process left a day ago or earlier."""
        found = self._bucket.listed("incoming")
        stale = [each.path for each in found if now_seconds - each.modified_seconds > _STALE_DRAFT_SECONDS]
        self._bucket.delete(stale)


def _path(sha256: str) -> str:
    return f"uploads/{sha256[:2]}/{sha256}"
