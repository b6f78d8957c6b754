"""Uploads in a folder: drafts that vanish, whole texts by digest, damage found out."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest

from workers import local_uploads
from workers.errors import StorageFull, Transient
from workers.local_store import LocalStore
from workers.local_uploads import LocalUploads

TEXT = b"What every layer reads."
DIGEST = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
def uploads(tmp_path: Path) -> LocalUploads:
    return LocalStore(tmp_path / "store").uploads


def files(uploads: LocalUploads) -> list[Path]:
    return [file for file in uploads.root.rglob("*") if file.is_file()]


def keep(uploads: LocalUploads, *parts: bytes) -> str:
    with uploads.drafting() as draft:
        for part in parts:
            draft.write(part)
        sha256 = draft.seal()
        draft.keep()
    return sha256


def test_a_kept_draft_is_there_under_its_digest(uploads: LocalUploads, tmp_path: Path) -> None:
    assert keep(uploads, TEXT[:5], TEXT[5:]) == DIGEST and uploads.holds(DIGEST)
    uploads.fetch(DIGEST, tmp_path / "deep" / "text")
    assert (tmp_path / "deep" / "text").read_bytes() == TEXT
    assert keep(uploads, TEXT) == DIGEST
    assert files(uploads) == [uploads.path_of(DIGEST)]
    uploads.discard(DIGEST)
    uploads.discard(DIGEST)
    assert not uploads.holds(DIGEST)


def test_a_draft_that_nobody_keeps_is_gone(uploads: LocalUploads) -> None:
    with pytest.raises(RuntimeError), uploads.drafting() as draft:
        draft.write(TEXT)
        raise RuntimeError
    with uploads.drafting() as draft:
        draft.write(TEXT)
        assert not uploads.holds(draft.seal()), "not before it is kept"
    assert files(uploads) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StorageFull), (errno.EIO, Transient)])
def test_the_disks_troubles_are_told_apart(
    uploads: LocalUploads, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Transient]
) -> None:
    def fail(_stream: Any) -> None:
        raise OSError(number, "trouble")

    monkeypatch.setattr(local_uploads, "sync", fail)
    with pytest.raises(Transient) as caught, uploads.drafting() as draft:
        draft.write(TEXT)
        draft.seal()
    assert type(caught.value) is kind and files(uploads) == []


def test_what_is_missing_or_damaged_is_not_fetched(uploads: LocalUploads, tmp_path: Path) -> None:
    with pytest.raises(Transient, match=DIGEST):
        uploads.fetch(DIGEST, tmp_path / "text")
    keep(uploads, TEXT)
    uploads.path_of(DIGEST).write_bytes(TEXT.upper())
    with pytest.raises(Transient, match="damaged"):
        uploads.fetch(DIGEST, tmp_path / "text")
    assert not (tmp_path / "text").exists()
    keep(uploads, TEXT)
    uploads.fetch(DIGEST, tmp_path / "text")
