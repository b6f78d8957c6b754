"""The artifact store in an object store: bytes by digest, stage results, claims and checkpoints by key.

blobs/ab/abcdef…             bytes, named by their SHA-256
stages/<key>.json            a finished stage's result
claims/<key>/<number>        who computes a stage now, see `claims`
checkpoints/<key>/<step>…    a stage's newest checkpoint, see `checkpoints`
uploads/ab/abcdef…           texts that were uploaded, see `uploads`
incoming/                    texts on their way in
condemned/ab/abcdef…/        somebody is about to remove these bytes
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from workers.contracts.results import StageResult, StoredFile
from workers.contracts.store import Elsewhere, KeptBytes, OnDisk, Streamed
from workers.errors import Transient
from workers.object_store.bucket import RETRIES, Bucket, Stored
from workers.object_store.checkpoints import Checkpoints
from workers.object_store.claims import Claims
from workers.object_store.node_cache import NodeCache, WrongBytes
from workers.object_store.sending import digest_of, send_file
from workers.object_store.uploads import ObjectUploads

FRESH_SECONDS = 3600.0
"""Bytes that were put so recently are not sent again; older ones are, so that their age begins anew."""

_DECIDE_SECONDS = 10.0
"""Between the look at the age of bytes and their removal."""
_OUTWAIT_SECONDS = 60.0
"""A removal takes no longer, or whoever was at it is dead."""

log = logging.getLogger(__name__)


class ObjectStore:
    """Implements `contracts.store.ArtifactStore` under a URL that all nodes reach.

    Travels as its URL: each process opens it with the credentials of its own environment, and none are in an order.
    """

    def __init__(self, url: str, retries: int = RETRIES, fresh_seconds: float = FRESH_SECONDS) -> None:
        """
        Args:
            url: such as `s3://bucket/prefix`.
            retries: of a request that fails, before a fault that passes is reported.
            fresh_seconds: see `FRESH_SECONDS`; `delete` takes nothing that is younger than twice this.

        Raises:
            ValueError: the URL names no object store.
        """
        self._made_of = url, retries, fresh_seconds
        self._fresh_seconds = fresh_seconds
        self._bucket = Bucket(url, retries)
        self._claims = Claims(self._bucket)
        self._checkpoints = Checkpoints(self._bucket)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str, int, float]]:
        return ObjectStore, self._made_of

    @property
    def url(self) -> str:
        """Where it is."""
        return self._bucket.url

    @property
    def uploads(self) -> ObjectUploads:
        """The texts that were uploaded."""
        return ObjectUploads(self._bucket, lambda: self._cache)

    def put(self, file: Path, path: str) -> StoredFile:
        """See `ArtifactStore.put`. Bytes that are there already are not sent again."""
        sha256, size_bytes = digest_of(file)
        while True:
            found = self._bucket.look(_blob(sha256))
            is_fresh = found is not None and found.size_bytes == size_bytes and _age(found) < self._fresh_seconds
            if not is_fresh:
                send_file(self._bucket, file, _blob(sha256), sha256)
            # A removal condemns before it looks at the age, and we look for that after our bytes are there: one of the
            # two sees the other.
            if not self._outwaited_removal(sha256) or self._bucket.look(_blob(sha256)) is not None:
                return StoredFile(path=path, sha256=sha256, size_bytes=size_bytes)

    def fetch(self, stored: StoredFile, folder: Path) -> Path:
        """See `ArtifactStore.fetch`. The file is another name of what this node keeps: read it, do not write to it."""
        target = folder / stored.path
        found = self._bucket.look(_blob(stored.sha256))
        if found is None:
            raise Transient(f"{stored.path} ({stored.sha256}) is missing from {self.url}; it will be made again")
        try:
            self._cache.place(
                "blobs",
                stored.sha256,
                target,
                lambda first: self._bucket.parts(found.path, first, found.size_bytes),
            )
        except WrongBytes as error:
            self._discard_damaged(found)
            raise Transient(
                f"{self.url}: the stored bytes of {stored.path} ({stored.sha256}) are damaged; they will be made again"
            ) from error
        return target

    def find(self, key: str) -> StageResult | None:
        """See `ArtifactStore.find`."""
        content = self._bucket.read(_stage(key))
        if content is None:
            return None
        try:
            result = StageResult.model_validate_json(content)
        except ValidationError:
            return None
        return result if all(self._is_whole(file) for file in result.files) else None

    def publish(self, result: StageResult) -> None:
        """See `ArtifactStore.publish`."""
        self._bucket.write(_stage(result.key), result.model_dump_json().encode())

    def claim(self, key: str, owner: str, ttl_seconds: float) -> bool:
        """See `ArtifactStore.claim`."""
        return self._claims.claim(key, owner, ttl_seconds)

    def release(self, key: str, owner: str) -> None:
        """See `ArtifactStore.release`."""
        self._claims.release(key, owner)

    def save_checkpoint(self, key: str, step: int, folder: Path) -> None:
        """See `ArtifactStore.save_checkpoint`."""
        self._checkpoints.save(key, step, folder)

    def load_checkpoint(self, key: str, folder: Path) -> int | None:
        """See `ArtifactStore.load_checkpoint`."""
        return self._checkpoints.load(key, folder)

    def drop_checkpoint(self, key: str) -> None:
        """See `ArtifactStore.drop_checkpoint`."""
        self._checkpoints.drop(key)

    def where(self, sha256: str, url_seconds: float) -> OnDisk | Elsewhere | Streamed | None:
        """See `ArtifactStore.where`."""
        found = self._bucket.look(_blob(sha256))
        if found is None:
            return None
        url = self._bucket.signed_url(found.path, url_seconds) if url_seconds > 0 else None
        if url is not None:
            return Elsewhere(url)
        return Streamed(lambda first, size_bytes: map(bytes, self._bucket.parts(found.path, first, first + size_bytes)))

    def digests(self, older_than_seconds: float) -> Iterator[KeptBytes]:
        """See `ArtifactStore.digests`."""
        for each in self._bucket.listed("blobs"):
            if _age(each) >= older_than_seconds:
                yield KeptBytes(each.path.rpartition("/")[2], each.size_bytes, _age(each))

    def delete(self, sha256: str, older_than_seconds: float) -> bool:
        """See `ArtifactStore.delete`.

        Raises:
            ValueError: the age is less than twice `fresh_seconds`: somebody may just have relied on the bytes.
        """
        if older_than_seconds < 2 * self._fresh_seconds:
            raise ValueError(
                f"{older_than_seconds} s is too young; bytes are relied on for {2 * self._fresh_seconds} s"
            )
        mark = f"{_condemned(sha256)}/{uuid.uuid4().hex}"
        self._bucket.write(mark, b"")
        began = time.monotonic()
        try:
            found = self._bucket.look(_blob(sha256))
            if found is None or _age(found) < older_than_seconds or time.monotonic() - began > _DECIDE_SECONDS:
                return False
            self._bucket.delete(found.path)
            return True
        finally:
            self._bucket.delete(mark)

    def sweep(self) -> None:
        """See `ArtifactStore.sweep`. What fails is left for the next time."""
        now_seconds = time.time()
        try:
            self._checkpoints.sweep(now_seconds)
            self._claims.sweep(now_seconds)
            self.uploads.sweep(now_seconds)
        except Transient as error:
            log.warning("nothing is swept at present: %s", error)

    @cached_property
    def _cache(self) -> NodeCache:
        return NodeCache.of_this_machine()

    def _is_whole(self, stored: StoredFile) -> bool:
        found = self._bucket.look(_blob(stored.sha256))
        return found is not None and found.size_bytes == stored.size_bytes

    def _discard_damaged(self, damaged: Stored) -> None:
        """Out of the way, so that the stage that made it is computed again; unless somebody has done so already."""
        log.error("%s: the bytes at %s do not match their digest; removing them", self.url, damaged.path)
        found = self._bucket.look(damaged.path)
        if found is not None and (found.e_tag, found.modified_seconds) == (damaged.e_tag, damaged.modified_seconds):
            self._bucket.delete(damaged.path)

    def _outwaited_removal(self, sha256: str) -> bool:
        """Wait until nobody is about to remove these bytes; whether there was somebody."""
        marks = [each.path for each in self._bucket.listed(_condemned(sha256))]
        if not marks:
            return False
        deadline = time.monotonic() + _OUTWAIT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.5)  # an object store has no events to wait for
            if not list(self._bucket.listed(_condemned(sha256))):
                return True
        self._bucket.delete(marks)
        return True


def _blob(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _stage(key: str) -> str:
    return f"stages/{key}.json"


def _condemned(sha256: str) -> str:
    return f"condemned/{sha256[:2]}/{sha256}"


def _age(stored: Stored) -> float:
    return max(0.0, time.time() - stored.modified_seconds)
