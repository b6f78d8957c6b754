"""What this machine has fetched from an object store, by digest: each file comes over the network once a node.

<kind>/ab/abcdef…   whole files, verified, read-only
parts/              what is being fetched; an interrupted download goes on from here

A file that is handed out is another name of the same bytes, a hard link. It can be mapped, takes no room of its own,
and the file system counts who uses it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from workers.durable import private_folder, transient
from workers.errors import Transient

_STALE_PART_SECONDS = 24 * 3600.0
_DEFAULT_GIB = 64.0

Download = Callable[[int], Iterable[bytes | memoryview]]
"""The bytes from this place on."""


class WrongBytes(Exception):  # whoever owns the store tells what is to be done
    """What was fetched does not match its digest."""


class NodeCache:
    """Files by digest in a folder of this machine, shared by all its processes."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        self.root, self.most_bytes = root, most_bytes

    @classmethod
    def of_this_machine(cls) -> NodeCache:
        """In `DRESS_CACHE_DIR` (else a private folder among the temporary files), of `DRESS_CACHE_GIB` at most.

        Raises:
            Transient: the folder cannot be made, or the size is no number.
        """
        told = os.environ.get("DRESS_CACHE_GIB") or str(_DEFAULT_GIB)
        folder = os.environ.get("DRESS_CACHE_DIR", "")
        try:
            most_bytes = int(float(told) * 1024**3)
        except (OverflowError, ValueError):
            most_bytes = -1
        if most_bytes < 0:
            raise Transient(f"DRESS_CACHE_GIB={told}: write a number of GiB, such as 64")
        with transient("the node's cache cannot be had"):
            default = Path(tempfile.gettempdir()) / f"dress-cache-{os.getuid()}"
            return cls(Path(folder) if folder else private_folder(default), most_bytes)

    def place(self, kind: str, sha256: str, target: Path, download: Download) -> None:
        """Have the bytes of this digest at a place, from here if they are here, and keep them here for the next.

        Raises:
            WrongBytes: they do not match their digest even when fetched from their first byte.
            StorageFull, Transient: the disk or the store fails. What came so far is kept for the next try, unless it
                is the disk that is full.
        """
        with transient(f"{target.name} could not be placed in {target.parent}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._hand_out(self._entry(kind, sha256), sha256, target):
                with self._part(kind, sha256) as part:
                    if not self._hand_out(self._entry(kind, sha256), sha256, target):  # fetched while we waited
                        self._complete(part, sha256, download)
                        self._settle(Path(part.name), self._entry(kind, sha256), target)
        self._sweep(self._entry(kind, sha256))

    def _entry(self, kind: str, sha256: str) -> Path:
        return self.root / kind / sha256[:2] / sha256

    def _hand_out(self, entry: Path, sha256: str, target: Path) -> bool:
        """Give a file that is here another name. It is read once more: what a disk lost is fetched anew."""
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            _link(entry, draft)
        except FileNotFoundError:
            return False
        try:
            with draft.open("rb") as stream:
                is_right = hashlib.file_digest(stream, "sha256").hexdigest() == sha256
            if not is_right:
                entry.unlink(missing_ok=True)
                return False
            with suppress(FileNotFoundError):
                os.utime(entry)  # the last use
            os.replace(draft, target)
            return True
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def _part(self, kind: str, sha256: str) -> Iterator[FileIO]:
        """The file that the bytes are fetched into, ours alone: others on this machine wait, and then find it done."""
        parts = self.root / "parts"
        parts.mkdir(parents=True, exist_ok=True)
        place = parts / f"{kind}-{sha256}"
        while True:
            with place.open("a+b", buffering=0) as part:
                fcntl.flock(part, fcntl.LOCK_EX)
                if not _is_at(part, place):
                    continue  # settled or removed before we got the lock
                try:
                    yield part
                finally:
                    if os.fstat(part.fileno()).st_size == 0 and _is_at(part, place):
                        place.unlink()
                return

    def _complete(self, part: FileIO, sha256: str, download: Download) -> None:
        """Fetch what the part lacks."""
        for _ in range(2):
            part.seek(0)
            digest = hashlib.file_digest(part, "sha256")
            have = part.tell()
            for chunk in download(have):
                digest.update(chunk)
                self._append(part, chunk)
            if digest.hexdigest() == sha256:
                return
            part.truncate(0)  # other bytes before the break, or bytes that the network spoiled: once more, all of it
        raise WrongBytes(sha256)

    def _append(self, part: FileIO, chunk: bytes | memoryview) -> None:
        """Write; on a full disk once more after all that is not in use has gone, else leave nothing behind."""
        begin = part.tell()
        try:
            _write(part, chunk)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            part.truncate(begin)
            self._shrink(0)
            try:
                _write(part, chunk)
            except OSError:
                part.truncate(0)
                raise

    def _settle(self, part: Path, entry: Path, target: Path) -> None:
        """Hand out what is whole, and keep it. In this order: a file that has two names is in use, and never swept."""
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            _link(part, draft)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
        entry.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, entry)
        # Last: a part that were read-only could not be gone on with, if this broke off.
        for file in (target, entry):
            file.chmod(0o444)

    def _sweep(self, newest: Path) -> None:
        """Keep to the size: what was used least recently goes, never what is in use. If that does not suffice, the
        newest is not kept: whoever asked for it has it under a name of his own."""
        if self._shrink(self.most_bytes) > self.most_bytes:
            with suppress(OSError):
                newest.unlink()

    def _shrink(self, most_bytes: int) -> int:
        """Remove what nobody uses until no more than this is held; the bytes that are held then."""
        found = []
        for file in self.root.glob("*/??/*"):
            with suppress(OSError):  # gone already
                found.append((file.stat(), file))
        held = sum(stat.st_size for stat, _ in found)
        for stat, file in sorted(found, key=lambda each: each[0].st_mtime):
            if held <= most_bytes:
                break
            if stat.st_nlink == 1:
                with suppress(OSError):
                    file.unlink()
                held -= stat.st_size
        self._drop_stale_parts()
        return held

    def _drop_stale_parts(self) -> None:
        for part in (self.root / "parts").glob("*"):
            with suppress(OSError), part.open("rb") as stream:
                if time.time() - os.fstat(stream.fileno()).st_mtime > _STALE_PART_SECONDS:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()


def _is_at(stream: FileIO, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), place.stat())
    except FileNotFoundError:
        return False


def _write(part: FileIO, chunk: bytes | memoryview) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[part.write(rest) :]


def _link(source: Path, target: Path) -> None:
    """Another name for the same bytes; a copy where the two places are on different file systems."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)
