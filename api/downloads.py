"""Brings a job's files home: resumable, verified, each appearing whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import httpx2
import stamina

from api.failures import Corrupt, Unreachable, failure_of
from api.schemas import Artifact

CHUNK_BYTES = 1024 * 1024
PART = ".part"


class Connection(Protocol):
    """What a download needs of the client."""

    def attempts(self) -> Iterator[stamina.Attempt]:
        """Tries with growing pauses."""
        ...

    def stream(self, path: str, headers: Mapping[str, str]) -> Any:
        """A request whose answer is read piece by piece."""
        ...

    def stream_elsewhere(self, url: str, headers: Mapping[str, str]) -> Any:
        """The same at another server, which is not shown the API key."""
        ...


def download_all(connection: Connection, wanted: Iterable[Artifact], folder: Path) -> list[Path]:
    """Place every file under the folder and return their paths.

    Raises:
        Corrupt: a path leads outside the folder, or bytes do not match their digest.
    """
    places = [(artifact, _inside(folder, artifact.path)) for artifact in wanted]  # refuse before anything is written
    for artifact, file in places:
        if not _is_right(file, artifact):
            _download(connection, artifact, file)
    return [file for _, file in places]


def _inside(folder: Path, path: str) -> Path:
    """The file's place, refused if it could lie elsewhere: by `..`, by an absolute path, or through a symbolic link."""
    pure = PurePosixPath(path)
    is_plain = path.isprintable() and "\\" not in path and ":" not in path
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or not is_plain:
        raise Corrupt(f"the manifest names {path!r}, which leads outside the folder; nothing was downloaded")
    root = folder.resolve()
    file = root.joinpath(*pure.parts)
    if not file.parent.resolve().is_relative_to(root):
        raise Corrupt(f"{file.parent} leads outside {root} by a symbolic link; nothing was downloaded")
    return file


def _download(connection: Connection, artifact: Artifact, file: Path) -> None:
    """Fill `file.part`, going on where an earlier try stopped, then put it in place if its digest is right."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + PART)
    for attempt in connection.attempts():
        with attempt:
            _fill(connection, artifact, part)
    if not _is_right(part, artifact):
        part.unlink(missing_ok=True)  # a resumed part may have been of other bytes: once more, from the start
        for attempt in connection.attempts():
            with attempt:
                _fill(connection, artifact, part)
        if not _is_right(part, artifact):
            part.unlink(missing_ok=True)
            raise Corrupt(f"{artifact.path} does not match its digest {artifact.sha256}; it was not kept")
    os.replace(part, file)


def _fill(connection: Connection, artifact: Artifact, part: Path) -> None:
    """Fetch what the part lacks. Raises `Unreachable` if the connection breaks: what came so far is kept."""
    have = part.stat().st_size if part.exists() else 0
    if have > artifact.size_bytes:
        have = 0
    if have == artifact.size_bytes and part.exists():
        return
    plain = {"Accept-Encoding": "identity"}
    ranged = plain | ({"Range": f"bytes={have}-"} if have else {})
    conditional = ranged | ({"If-Range": f'"{artifact.sha256}"'} if have else {})
    try:
        with connection.stream(artifact.href, conditional) as answer:
            if answer.has_redirect_location:
                url = str(answer.headers["Location"])
            elif answer.is_error:
                answer.read()
                raise failure_of(answer)
            else:
                _take(answer, part)
                return
    except httpx2.TransportError as error:
        raise Unreachable(f"the download of {artifact.path} broke off: {error}") from error
    _fill_from(connection, url, ranged, artifact, part)


def _fill_from(connection: Connection, url: str, headers: Mapping[str, str], artifact: Artifact, part: Path) -> None:
    """The same from the object store that the server sent us to. Its ETag is its own, so it is asked without one: what
    comes is compared with the digest in the end."""
    host = httpx2.URL(url).host
    try:
        with connection.stream_elsewhere(url, headers) as answer:
            if answer.is_error:
                raise Unreachable(f"{artifact.path} cannot be read at {host}: {answer.status_code}; asking anew")
            _take(answer, part)
    except httpx2.TransportError as error:
        raise Unreachable(
            f"{artifact.path} cannot be read at {host}: {error}; if that host is out of reach from here, the server's "
            "operator may set DRESS_SIGNED_URL_SECONDS=0"
        ) from error


def _take(answer: Any, part: Path) -> None:
    """Write what comes: after what is there, if the answer goes on from it."""
    resumed = answer.status_code == httpx2.codes.PARTIAL_CONTENT
    with part.open("ab" if resumed else "wb") as sink:
        for chunk in answer.iter_bytes(CHUNK_BYTES):
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())


def _is_right(file: Path, artifact: Artifact) -> bool:
    """Whether the bytes at this place are the promised ones."""
    if file.is_symlink() or not file.is_file() or file.stat().st_size != artifact.size_bytes:
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == artifact.sha256
