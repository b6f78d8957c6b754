"""What the pipeline needs of an artifact store; the service hands one over, scoped to what the team may see."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from workers.contracts.results import StageResult, StoredFile

STALE_CHECKPOINT_SECONDS = 30 * 24 * 3600.0
"""A checkpoint that is so old is one that nobody will go on from."""


class KeptBytes(NamedTuple):
    """Bytes in the store, and for how long."""

    sha256: str
    size_bytes: int
    age_seconds: float
    """Since they were last put, whether or not they were there already."""


class KeptResult(NamedTuple):
    """A stage's result in the store, and how long nobody has needed it."""

    key: str
    digests: frozenset[str]
    """Of the files that it names."""
    idle_seconds: float
    """Since it was last published or found."""


@dataclass(frozen=True)
class OnDisk:
    """Bytes that lie in a file of this machine."""

    file: Path


@dataclass(frozen=True)
class Elsewhere:
    """Bytes that whoever has the URL may read there for a while, with ranges, and without further credentials."""

    url: str


@dataclass(frozen=True)
class Streamed:
    """Bytes that can only be had through this process."""

    read: Callable[[int, int], Iterator[bytes]]
    """From a place on, so many bytes, piece by piece.

    Raises (while it is read):
        Transient: the store does not answer.
    """


class Draft(Protocol):
    """Bytes on their way into the store. Nobody sees them before they are kept."""

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            StorageFull: there is no room.
            Transient: they could not be written.
        """
        ...

    def seal(self) -> str:
        """Nothing more comes: have it all on disk, and return its SHA-256.

        Raises:
            StorageFull, Transient: as `write`.
        """
        ...

    def keep(self) -> None:
        """After `seal`: make the bytes readable under their digest, in place of any that are there already.

        Raises:
            StorageFull, Transient: it could not be done.
        """
        ...


class Uploads(Protocol):
    """Texts that were uploaded, by digest. No stage and no job writes here, so whoever deletes one breaks no result."""

    def drafting(self) -> AbstractContextManager[Draft]:
        """A new draft, which is gone at the end of the block unless it was kept."""
        ...

    def holds(self, sha256: str) -> bool:
        """Whether there are bytes with this digest."""
        ...

    def fetch(self, sha256: str, file: Path) -> None:
        """Copy the bytes to this place, verified against their digest.

        Raises:
            Transient: they are missing, damaged, or cannot be written.
        """
        ...

    def digests(self, older_than_seconds: float) -> list[str]:
        """Digests of the bytes that came in so long ago or earlier.

        Raises:
            Transient: the store cannot be read.
        """
        ...

    def discard(self, sha256: str) -> None:
        """Remove the bytes, if there are any.

        Raises:
            Transient: they could not be removed.
        """
        ...


class KeepsUploads(Protocol):
    """A store, as far as uploaded texts go."""

    @property
    def uploads(self) -> Uploads:
        """The texts that were uploaded."""
        ...


class ArtifactStore(KeepsUploads, Protocol):
    """Bytes by digest, stage results and checkpoints by key. Every write is atomic: partial files are never seen."""

    def put(self, file: Path, path: str) -> StoredFile:
        """Keep a file's bytes under their digest; `path` is the relative name the result carries.

        Raises:
            Transient: the bytes could not be written (disk full, network).
        """
        ...

    def fetch(self, stored: StoredFile, folder: Path) -> Path:
        """Place the file at `folder / stored.path`, verified against its digest, and return that path.

        Raises:
            Transient: the bytes are missing or do not match their digest.
        """
        ...

    def find(self, key: str) -> StageResult | None:
        """The result of the stage with this key, if it exists and all its files are there. It is needed again, then."""
        ...

    def publish(self, result: StageResult) -> None:
        """Make a finished stage's result findable by its key."""
        ...

    def claim(self, key: str, owner: str, ttl_seconds: float) -> bool:
        """Reserve the computation of a key, or prolong one's own claim. False while another's claim is in force."""
        ...

    def release(self, key: str, owner: str) -> None:
        """Give up one's claim, if it is still one's own."""
        ...

    def save_checkpoint(self, key: str, step: int, folder: Path) -> None:
        """Keep the files of `folder` as the stage's newest checkpoint, in place of an older one."""
        ...

    def load_checkpoint(self, key: str, folder: Path) -> int | None:
        """Place the newest checkpoint's files in `folder` and return its step, or None if there is none."""
        ...

    def drop_checkpoint(self, key: str) -> None:
        """Forget the stage's checkpoints; its result is published."""
        ...

    def holds(self, sha256: str) -> bool:
        """Whether there are bytes with this digest.

        Raises:
            Transient: the store cannot be read.
        """
        ...

    def where(self, sha256: str, url_seconds: float) -> OnDisk | Elsewhere | Streamed | None:
        """How these bytes can be read by others than the pipeline, or None if there are none.

        Args:
            url_seconds: how long a signed URL is good; 0 wants none.
        """
        ...

    def digests(self, older_than_seconds: float) -> Iterator[KeptBytes]:
        """The bytes that were last put so long ago or earlier, for whoever removes what nothing refers to.

        Raises:
            Transient: the store cannot be read.
        """
        ...

    def delete(self, sha256: str, older_than_seconds: float) -> bool:
        """Remove bytes unless they were put again within this time; whether they were removed.

        A `put` of the same bytes comes before, and then they stay, or after, and then they are there again.

        Raises:
            Transient: they could not be removed.
        """
        ...

    def results(self) -> Iterator[KeptResult]:
        """Every stage result that names files.

        Raises:
            Transient: the store cannot be read.
        """
        ...

    def drop_result(self, key: str, idle_seconds: float) -> bool:
        """Forget a result unless it was found or published within this time; whether it is gone.

        Raises:
            Transient: it could not be removed.
        """
        ...

    def sweep(self) -> None:
        """Remove what killed processes left, and checkpoints that nobody will go on from."""
        ...
