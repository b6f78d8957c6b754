"""The folder store: whole bytes or none, results by key, claims that expire, checkpoints that replace each other."""

import errno
import hashlib
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from workers import local_store
from workers.contracts.results import Measurement, StageResult, StoredFile
from workers.errors import Transient
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


@given(content=st.binary(max_size=300))
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_put_is_fetched(store: LocalStore, tmp_path: Path, content: bytes) -> None:
    stored = store.put(file_of(tmp_path, content), "model/weights.bin")
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert store.path_of(stored.sha256).read_bytes() == content
    fetched = store.fetch(stored, tmp_path / "out")
    assert fetched == tmp_path / "out" / "model" / "weights.bin" and fetched.read_bytes() == content
    assert not any((store.root / "drafts").iterdir())


def test_editing_a_fetched_file_leaves_the_store_alone(store: LocalStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    store.fetch(stored, tmp_path / "out").write_bytes(b"edited")
    assert store.path_of(stored.sha256).read_bytes() == b"weights"


def test_damaged_bytes_are_found_out_and_made_again(store: LocalStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    store.publish(result(stored))
    store.path_of(stored.sha256).write_bytes(b"WEIGHTS")
    with pytest.raises(Transient, match="damaged"):
        store.fetch(stored, tmp_path / "out")
    assert not (tmp_path / "out" / "file").exists() and store.find(KEY) is None
    store.put(tmp_path / "file", "file")
    assert store.find(KEY) is not None
    assert store.fetch(stored, tmp_path / "out").read_bytes() == b"weights"


def test_missing_bytes_are_a_passing_fault(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(Transient, match="could not be fetched"):
        store.fetch(StoredFile(path="file", sha256="e" * 64, size_bytes=1), tmp_path / "out")


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "free space"), (errno.EIO, "there and writable")])
def test_a_disk_in_trouble_leaves_nothing_half_written(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local_store, "_sync", fail)
    with pytest.raises(Transient, match=remedy):
        store.put(file_of(tmp_path), "file")
    with pytest.raises(Transient, match=remedy):
        store.save_checkpoint(KEY, 1, file_of(tmp_path / "state").parent)
    assert not list(store.root.glob("blobs/*/*")) and not any((store.root / "drafts").iterdir())
    assert store.load_checkpoint(KEY, tmp_path / "back") is None


def test_results_are_found_only_whole(store: LocalStore, tmp_path: Path) -> None:
    assert store.find(KEY) is None
    stored = store.put(file_of(tmp_path), "file")
    measured = result(stored).model_copy(update={"measurements": {"pruned": Measurement(perplexity={"a": None})}})
    store.publish(measured)
    assert store.find(KEY) == measured
    store.path_of(stored.sha256).write_bytes(b"short")
    assert store.find(KEY) is None
    (store.root / "stages" / f"{KEY}.json").write_text("{", "utf-8")
    assert store.find(KEY) is None


def test_a_claim_is_one_owners_until_it_expires(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.claim(KEY, "one", 60)
    assert store.claim(KEY, "one", 60), "its owner may prolong it"
    assert not store.claim(KEY, "two", 60)
    store.release(KEY, "two")
    assert not store.claim(KEY, "two", 60), "only its owner releases it"
    store.release(KEY, "one")
    assert store.claim(KEY, "two", 0)
    assert store.claim(KEY, "one", 60), "an expired claim is free"


def test_many_claimants_one_winner(store: LocalStore) -> None:
    start = threading.Barrier(8)
    won: list[str] = []

    def claim(owner: str) -> None:
        start.wait()
        if store.claim(KEY, owner, 60):
            won.append(owner)

    threads = [threading.Thread(target=claim, args=(f"owner {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_the_newest_checkpoint_replaces_the_older(store: LocalStore, tmp_path: Path) -> None:
    assert store.load_checkpoint(KEY, tmp_path / "back") is None
    for step in (9, 10, 100):
        file_of(tmp_path / "state" / "deep", str(step).encode())
        store.save_checkpoint(KEY, step, tmp_path / "state")
    assert [path.name for path in (store.root / "checkpoints" / KEY).iterdir()] == [f"{100:012d}"]
    assert store.load_checkpoint(KEY, tmp_path / "back") == 100
    assert (tmp_path / "back" / "deep" / "file").read_bytes() == b"100"
    store.save_checkpoint(KEY, 100, tmp_path / "state")
    store.drop_checkpoint(KEY)
    store.drop_checkpoint(KEY)
    assert store.load_checkpoint(KEY, tmp_path / "back") is None


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


def test_it_travels(store: LocalStore) -> None:
    assert pickle.loads(pickle.dumps(store)).root == store.root
