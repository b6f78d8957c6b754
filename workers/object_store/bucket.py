"""Objects under a URL, read and written by parts: whole or not there at all, and troubles told as faults that pass."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from workers.errors import Transient

if TYPE_CHECKING:
    from obstore import WritableFile
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES = 16 * 1024 * 1024
"""One request's share of a large object; a failed request is repeated, not the whole object."""
PARTS_AT_ONCE = 4
"""So many parts are under way, and in memory, at most."""
RETRIES = 8
"""Of one request that was refused, reset or answered with 5xx, with growing pauses: some half a minute in all."""
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 90.0
"""A request that fails is tried again for so long."""
SILENCE_SECONDS = 60.0
"""A server that says nothing for so long is asked again."""

_MOST_PARTS = 10_000
"""Of one object, in S3."""
_MOST_COPY_BYTES = 5 * 1024**3
"""The largest object that S3 copies by itself."""
_ATTRIBUTES = {"Content-Type": "application/octet-stream", "Content-Disposition": "attachment"}
"""A browser that is sent to an object shall neither guess nor run what a job wrote."""
_CREDENTIALS = "check the store's credentials in the environment of this process (AWS_ACCESS_KEY_ID and so on)"


log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """What the store tells of an object."""

    path: str
    size_bytes: int
    modified_seconds: float
    """Unix time, by the store's clock."""
    e_tag: str | None


class Bucket:
    """The objects under one URL. May be used from several threads."""

    def __init__(self, url: str, retries: int = RETRIES, silence_seconds: float = SILENCE_SECONDS) -> None:
        """Endpoint, region and credentials come from the environment, in the variables that each kind of store uses.

        Raises:
            ValueError: the URL names no object store, or the environment lacks what it takes to find it.
        """
        client: ClientConfig = {
            "allow_http": True,  # who names an http:// endpoint means it; the default is https
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=silence_seconds),
            "timeout": timedelta(minutes=10),  # of a request for one part
        }
        retry: RetryConfig = {
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
        }
        self.url = url.rstrip("/")
        try:
            self._store = from_url(self.url, client_options=client, retry_config=retry)
        except BaseError as error:
            raise ValueError(_in_words(error)) from error

    def look(self, path: str) -> Stored | None:
        """What the store tells of an object, or None if there is none."""
        with self.passing(f"{path} could not be looked up"):
            try:
                return _stored(obstore.head(self._store, path))
            except FileNotFoundError:
                return None

    def read(self, path: str) -> bytes | None:
        """All of a small object, or None if there is none."""
        found = self.read_with(path)
        return None if found is None else found[1]

    def read_with(self, path: str) -> tuple[Stored, bytes] | None:
        """All of a small object with what the store tells of it, or None if there is none."""
        with self.passing(f"{path} could not be read"):
            try:
                answer = obstore.get(self._store, path)
                return _stored(answer.meta), bytes(answer.bytes())
            except FileNotFoundError:
                return None

    def parts(self, path: str, first: int, size_bytes: int) -> Iterator[memoryview]:
        """The bytes from `first` on, in order, of an object of this size. A few parts are fetched at once.

        Raises:
            Transient: they could not be read, or there are fewer.
        """

        def part(start: int) -> memoryview:
            wanted = min(PART_BYTES, size_bytes - start)
            found = memoryview(obstore.get_range(self._store, path, start=start, length=wanted))
            if len(found) != wanted:
                raise Transient(f"{self.url}: {path} ends after {start + len(found)} of {size_bytes} bytes")
            return found

        starts = range(first, size_bytes, PART_BYTES)
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="fetch") as threads:
            for place in range(0, len(starts), PARTS_AT_ONCE):
                with self.passing(f"{path} could not be read"):
                    fetched = list(threads.map(part, starts[place : place + PARTS_AT_ONCE]))
                yield from fetched

    def write(self, path: str, content: bytes) -> None:
        """Put a small object, in place of what is there."""
        with self.passing(f"{path} could not be written"):
            obstore.put(self._store, path, content, attributes=_ATTRIBUTES, use_multipart=False)

    def create(self, path: str, content: bytes) -> bool:
        """Put a small object unless there is one; whether it was put."""
        with self.passing(f"{path} could not be written"):
            try:
                obstore.put(self._store, path, content, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def send(self, path: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        """Put a large object part by part. An exception of `chunks` passes through, and nothing is put."""
        part_bytes = max(PART_BYTES, -(-size_bytes // (_MOST_PARTS - 1)))
        with self.passing(f"{path} could not be written"):
            obstore.put(
                self._store,
                path,
                iter(chunks),
                attributes=_ATTRIBUTES,
                chunk_size=part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )

    def writer(self, path: str) -> WritableFile:
        """What writes a large object piece by piece. It is there once the writer was closed; see `obstore`."""
        return obstore.open_writer(
            self._store, path, attributes=_ATTRIBUTES, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )

    def copy(self, source: Stored, target: str) -> None:
        """Put a second object with the same bytes, without fetching them where the store can do that."""
        if source.size_bytes > _MOST_COPY_BYTES:
            self.send(target, map(bytes, self.parts(source.path, 0, source.size_bytes)), source.size_bytes)
            return
        with self.passing(f"{source.path} could not be copied"):
            obstore.copy(self._store, source.path, target)

    def listed(self, prefix: str) -> Iterator[Stored]:
        """The objects in this folder and below."""
        with self.passing(f"{prefix} could not be listed"):
            for page in obstore.list(self._store, prefix, chunk_size=1000):
                yield from map(_stored, page)

    def delete(self, paths: str | Sequence[str]) -> None:
        """Remove objects; one that is not there is no fault."""
        if not paths:
            return
        with self.passing(f"{paths if isinstance(paths, str) else paths[0]} could not be removed"):
            try:
                obstore.delete(self._store, paths)
            except FileNotFoundError:  # some stores tell, S3 does not
                return

    def signed_url(self, path: str, seconds: float) -> str | None:
        """A URL from which anybody may read the object for so long, or None where the store cannot sign."""
        if not isinstance(self._store, AzureStore | GCSStore | S3Store):
            return None
        try:
            return obstore.sign(self._store, "GET", path, timedelta(seconds=seconds))
        except BaseError as error:  # some credentials may read but not sign
            log.warning("%s: no URL could be signed: %s", self.url, _in_words(error))
            return None

    @contextmanager
    def passing(self, what: str) -> Iterator[None]:
        """Tell the store's troubles as faults that pass; those of a local disk go through.

        Raises:
            Transient: the store does not answer or refuses, or the object or its bucket is missing.
        """
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Transient(f"{self.url}: {what}: {_in_words(error)}; {_CREDENTIALS}") from error
        except BaseError as error:
            raise Transient(f"{self.url}: {what}: {_in_words(error)}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise Transient(f"{self.url}: {what}: {_in_words(error)}; the object or its bucket is not there") from error


def _stored(told: obstore.ObjectMeta) -> Stored:
    return Stored(told["path"], told["size"], told["last_modified"].timestamp(), told["e_tag"])


def _in_words(error: Exception) -> str:
    """Without the library's account of its own structures."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:500]
