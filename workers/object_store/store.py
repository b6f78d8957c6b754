"""The artifact store in an object store: bytes by digest, stage results, claims and checkpoints by key.

blobs/ab/abcdef…             bytes, named by their SHA-256
stages/<key>.json            a finished stage's result
needed/<key>                 when that result was last found
claims/<key>/<number>        who computes a stage now, see `claims`
checkpoints/<key>/<step>…    a stage's newest checkpoint, see `checkpoints`
uploads/ab/abcdef…           texts that were uploaded, see `uploads`
incoming/                    texts on their way in
condemned/                   what somebody is about to remove, see `removals`
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from workers.contracts.results import StageResult, StoredFile
from workers.contracts.store import Elsewhere, KeptBytes, KeptResult, OnDisk, Streamed
from workers.errors import Transient
from workers.object_store.bucket import RETRIES, Bucket, Stored
from workers.object_store.checkpoints import Checkpoints
from workers.object_store.claims import Claims
from workers.object_store.node_cache import NodeCache, WrongBytes
from workers.object_store.removals import Removals
from workers.object_store.sending import digest_of, send_file
from workers.object_store.uploads import ObjectUploads

FRESH_SECONDS = 3600.0
"""Bytes that were put so recently are not sent again, and a result found so recently needs no other note of it; older
ones are renewed, so that their age begins anew."""

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
            fresh_seconds: see `FRESH_SECONDS`; nothing younger than twice this is deleted or dropped.

        Raises:
            ValueError: the URL names no object store.
        """
        self._made_of = url, retries, fresh_seconds
        self._fresh_seconds = fresh_seconds
        self._bucket = Bucket(url, retries)
        self._claims = Claims(self._bucket)
        self._checkpoints = Checkpoints(self._bucket)
        self._removals = Removals(self._bucket)

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
            self._removals.outwait(_blob(sha256))
            if self._bucket.look(_blob(sha256)) is not None:
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
        found = self._bucket.read_with(_stage(key))
        result = None if found is None else _result(found[1])
        if found is None or result is None or not all(self._is_whole(file) for file in result.files):
            return None
        return result if self._is_needed_again(key, found[0]) else None

    def publish(self, result: StageResult) -> None:
        """See `ArtifactStore.publish`."""
        self._bucket.write(_stage(result.key), result.model_dump_json().encode())

    def claim(self, key: str, owner: str, ttl_seconds: float) -> bool:
        """See `ArtifactStore.claim`."""
        return self._claims.claim(key, owner, ttl_seconds)

    def release(self, key: str, owner: str) -> None:
        """See `ArtifactStore.release`. A claim that cannot be given up just now runs out."""
        try:
            self._claims.release(key, owner)
        except Transient as error:
            log.warning("a claim stands until it runs out: %s", error)

    def save_checkpoint(self, key: str, step: int, folder: Path) -> None:
        """See `ArtifactStore.save_checkpoint`."""
        self._checkpoints.save(key, step, folder)

    def load_checkpoint(self, key: str, folder: Path) -> int | None:
        """See `ArtifactStore.load_checkpoint`."""
        return self._checkpoints.load(key, folder)

    def drop_checkpoint(self, key: str) -> None:
        """See `ArtifactStore.drop_checkpoint`. What cannot be removed just now is swept later."""
        try:
            self._checkpoints.drop(key)
        except Transient as error:
            log.warning("a checkpoint stays until it is swept: %s", error)

    def holds(self, sha256: str) -> bool:
        """See `ArtifactStore.holds`."""
        return self._bucket.look(_blob(sha256)) is not None

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
        self._require_age(older_than_seconds)
        blob = _blob(sha256)
        return self._removals.remove(blob, [blob], lambda: self._renewed_seconds(blob), older_than_seconds)

    def results(self) -> Iterator[KeptResult]:
        """See `ArtifactStore.results`."""
        needed = {each.path.rpartition("/")[2]: each for each in self._bucket.listed("needed")}
        for each in self._bucket.listed("stages"):
            key = each.path.rpartition("/")[2].removesuffix(".json")
            result = _result(self._bucket.read(each.path))
            if result is not None and result.files:
                idle_seconds = min(_age(each), _age(needed.get(key, each)))
                yield KeptResult(key, frozenset(file.sha256 for file in result.files), idle_seconds)

    def drop_result(self, key: str, idle_seconds: float) -> bool:
        """See `ArtifactStore.drop_result`.

        Raises:
            ValueError: the time is less than twice `fresh_seconds`: somebody may just have found it.
        """
        self._require_age(idle_seconds)
        paths = [_stage(key), _needed(key)]
        if self._bucket.look(_stage(key)) is None:
            return True
        return self._removals.remove(_stage(key), paths, lambda: self._renewed_seconds(*paths), idle_seconds)

    def sweep(self) -> None:
        """See `ArtifactStore.sweep`. What fails is left for the next time."""
        now_seconds = time.time()
        try:
            self._checkpoints.sweep(now_seconds)
            self._claims.sweep(now_seconds)
            self.uploads.sweep(now_seconds)
            self._removals.sweep(now_seconds)
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

    def _is_needed_again(self, key: str, stage: Stored) -> bool:
        """Note that a result was found, which `drop_result` heeds; False if it went this very moment."""
        if _age(stage) < self._fresh_seconds:
            return True
        noted = self._bucket.look(_needed(key))
        if noted is not None and _age(noted) < self._fresh_seconds:
            return True
        self._bucket.write(_needed(key), b"")
        self._removals.outwait(_stage(key))
        return self._bucket.look(_stage(key)) is not None

    def _renewed_seconds(self, *paths: str) -> float | None:
        """When one of these was written last, by the store's clock; None if there is none."""
        found = [each for path in paths if (each := self._bucket.look(path)) is not None]
        return max((each.modified_seconds for each in found), default=None)

    def _require_age(self, seconds: float) -> None:
        if seconds < 2 * self._fresh_seconds:
            raise ValueError(f"{seconds} s is too young; what is stored is relied on for {2 * self._fresh_seconds} s")


def _blob(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _stage(key: str) -> str:
    return f"stages/{key}.json"


def _needed(key: str) -> str:
    return f"needed/{key}"


def _result(content: bytes | None) -> StageResult | None:
    """A stored result, or None if it is none of this version's."""
    try:
        return StageResult.model_validate_json(content or b"")
    except ValidationError:
        return None


def _age(stored: Stored) -> float:
    return max(0.0, time.time() - stored.modified_seconds)
