"""What is a folder store's own: drafts, a full disk, a killed writer, the layout that earlier versions left."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.processes import DEADLINE_SECONDS
from tests.tiny_disk import tiny_disk
from workers import durable
from workers.contracts.results import StageResult, StoredFile
from workers.errors import StorageFull, Transient
from workers.local_store import LocalStore

KEY = "d" * 64


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def file_of(folder: Path, content: bytes = b"weights", name: str = "file") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def result(*files: StoredFile) -> StageResult:
    return StageResult(stage="prune", key=KEY, files=list(files), seconds=1.5)


def test_bytes_lie_where_the_store_says(store: LocalStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "model/weights.bin")
    assert store.path_of(stored.sha256).read_bytes() == b"weights"
    store.fetch(stored, tmp_path / "out").write_bytes(b"edited")
    assert store.path_of(stored.sha256).read_bytes() == b"weights"
    assert not any((store.root / "drafts").iterdir())


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "free space"), (errno.EIO, "there and writable")])
def test_a_disk_in_trouble_leaves_nothing_half_written(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(durable, "sync", fail)
    with pytest.raises(Transient, match=remedy):
        store.put(file_of(tmp_path), "file")
    with pytest.raises(Transient, match=remedy):
        store.save_checkpoint(KEY, 1, file_of(tmp_path / "state").parent)
    assert not list(store.root.glob("blobs/*/*")) and not any((store.root / "drafts").iterdir())
    assert store.load_checkpoint(KEY, tmp_path / "back") is None


def test_a_full_disk_is_a_passing_fault_and_leaves_what_was_there(tmp_path: Path) -> None:
    large = file_of(tmp_path, bytes(600 * 1024), "large")
    with tiny_disk(tmp_path / "disk", size_kib=1024) as disk:
        store = LocalStore(disk)
        small = store.put(file_of(tmp_path), "file")
        store.save_checkpoint(KEY, 1, file_of(tmp_path / "state", bytes(100 * 1024)).parent)
        store.put(large, "large")
        large.write_bytes(b"x" + bytes(600 * 1024))
        with pytest.raises(StorageFull, match="large could not be stored.*free space"):
            store.put(large, "large")
        with pytest.raises(StorageFull, match="step 2.*free space"):
            store.save_checkpoint(KEY, 2, file_of(tmp_path / "state", bytes(500 * 1024)).parent)
        with pytest.raises(StorageFull), store.uploads.drafting() as draft:
            draft.write(bytes(500 * 1024))
            draft.seal()
        assert not any((disk / "drafts").iterdir())
        assert store.load_checkpoint(KEY, tmp_path / "back") == 1
        assert store.fetch(small, tmp_path / "out").read_bytes() == b"weights"
        assert len(list(store.digests(0.0))) == 2
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(512)):
                pass
        with pytest.raises(StorageFull, match="file could not be fetched"):
            store.fetch(small, disk / "out")


_PUTTING = """
import sys
from pathlib import Path
from workers.local_store import LocalStore
LocalStore(Path(sys.argv[1])).put(Path(sys.argv[2]), "file")
"""


def test_a_writer_that_is_killed_leaves_nothing_that_can_be_seen(store: LocalStore, tmp_path: Path) -> None:
    """It reads from a pipe: when a write into the pipe returns, all but the pipe's own capacity has been read."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen([sys.executable, "-c", _PUTTING, str(store.root), str(pipe)])
    try:
        with pipe.open("wb", buffering=0) as stream:
            fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, 4096)
            for _ in range(3):
                stream.write(bytes(4 * 1024 * 1024))
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait(DEADLINE_SECONDS)
    finally:
        writer.kill()
    (draft,) = (store.root / "drafts").iterdir()
    assert draft.stat().st_size > 0, "it was killed in the middle of writing"
    assert list(store.digests(0.0)) == []
    os.utime(draft, (0, 0))
    store.sweep()
    assert not draft.exists()


def test_an_expired_claim_is_told_by_the_clock_of_the_machine(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.claim(KEY, "one", 60) and not store.claim(KEY, "two", 60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert store.claim(KEY, "two", 60)


def test_a_checkpoint_of_an_earlier_version_is_read(store: LocalStore, tmp_path: Path) -> None:
    store.save_checkpoint(KEY, 7, file_of(tmp_path / "state").parent)
    (store.root / "checkpoints" / KEY / f"{7:012d}" / ".digests.json").unlink()
    assert store.load_checkpoint(KEY, tmp_path / "back") == 7
    assert (tmp_path / "back" / "file").read_bytes() == b"weights"


def test_old_drafts_are_swept_and_new_ones_kept(store: LocalStore, tmp_path: Path) -> None:
    drafts = store.root / "drafts"
    old, new = file_of(drafts, name="old"), file_of(drafts, name="new")
    (drafts / "old-folder").mkdir()
    for path in (old, drafts / "old-folder"):
        os.utime(path, (0, 0))
    store.sweep()
    assert list(drafts.iterdir()) == [new]


def test_what_is_forgotten_takes_no_bytes_that_others_name(store: LocalStore, tmp_path: Path) -> None:
    own, shared = (store.put(file_of(tmp_path, content), "file") for content in (b"own", b"shared"))
    left = {key * 64: files for key, files in {"a": [own, shared], "b": [shared], "c": []}.items()}
    for key, files in left.items():
        store.publish(StageResult(stage="prune", key=key, files=files, seconds=1.0))
    store.forget(["a" * 64, "c" * 64, "e" * 64])
    assert store.find("a" * 64) is None and not store.path_of(own.sha256).exists()
    assert store.find("b" * 64) is not None, "its bytes are still there"
    assert store.find("c" * 64) is not None, "figures alone take no room"
    store.forget(["b" * 64])
    assert not store.path_of(shared.sha256).exists()


def test_age_begins_anew_with_each_put(store: LocalStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    os.utime(store.path_of(stored.sha256), (0, 0))
    assert [each.sha256 for each in store.digests(3600.0)] == [stored.sha256]
    store.put(tmp_path / "file", "file")
    assert list(store.digests(3600.0)) == [] and not store.delete(stored.sha256, 3600.0)
    os.utime(store.path_of(stored.sha256), (0, 0))
    with store.path_of(stored.sha256).open("rb") as reader:
        assert store.delete(stored.sha256, 3600.0)
        assert reader.read() == b"weights", "who reads it goes on reading"


def test_whoever_deletes_waits_for_a_put_that_is_about_to_end(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The put is held up at its last step; the deletion must then see the new age, not the old one."""
    stored = store.put(file_of(tmp_path), "file")
    os.utime(store.path_of(stored.sha256), (0, 0))
    placing, go_on = threading.Event(), threading.Event()

    def slowly(draft: Path, target: Path) -> None:
        placing.set()
        assert go_on.wait(DEADLINE_SECONDS)
        durable.place(draft, target)

    monkeypatch.setattr("workers.local_store._place", slowly)
    putting = threading.Thread(target=store.put, args=(tmp_path / "file", "file"))
    putting.start()
    assert placing.wait(DEADLINE_SECONDS)
    deleted: list[bool] = []
    deleting = threading.Thread(target=lambda: deleted.append(store.delete(stored.sha256, 3600.0)))
    deleting.start()
    deleting.join(0.2)
    assert deleted == [], "it waits"
    go_on.set()
    putting.join(DEADLINE_SECONDS)
    deleting.join(DEADLINE_SECONDS)
    assert deleted == [False] and store.path_of(stored.sha256).read_bytes() == b"weights"


def test_old_bytes_that_are_put_while_others_delete_them_are_there(store: LocalStore, tmp_path: Path) -> None:
    file = file_of(tmp_path)
    stored = store.put(file, "file")
    for _ in range(10):
        os.utime(store.path_of(stored.sha256), (0.0, 0.0))
        start = threading.Barrier(4)

        def act(number: int, start: threading.Barrier = start) -> None:
            start.wait(DEADLINE_SECONDS)
            store.put(file, "file") if number % 2 else store.delete(stored.sha256, 3600.0)

        threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
        assert store.holds(stored.sha256)


def test_a_checkpoints_digests_are_on_disk_with_it(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(
        durable.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    store.save_checkpoint(KEY, 1, file_of(tmp_path / "state").parent)
    assert {"file", ".digests.json"} <= {Path(place).name for place in synced}
