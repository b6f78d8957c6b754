"""One suite for every kind of artifact store: a folder, an S3-compatible server, and objects in memory."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from workers.contracts.results import Measurement, StageResult, StoredFile
from workers.contracts.store import ArtifactStore, Elsewhere, OnDisk, Streamed
from workers.errors import Transient
from workers.local_store import LocalStore
from workers.object_store.bucket import PART_BYTES
from workers.object_store.store import ObjectStore

KEY, OTHER = "d" * 64, "e" * 64


@dataclass
class Backend:
    """A store, and what tests do behind its back."""

    store: Any
    write: Callable[[str, bytes], None]
    """Put bytes at a place below the store's root."""
    places: Callable[[], set[str]]
    """What is there below the store's root."""


def in_folder(folder: Path) -> Backend:
    store = LocalStore(folder)

    def write(place: str, content: bytes) -> None:
        (folder / place).write_bytes(content)

    def places() -> set[str]:
        files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
        return {file.relative_to(folder).as_posix() for file in files}

    return Backend(store, write, places)


def in_bucket(url: str) -> Backend:
    store = ObjectStore(url, retries=1, fresh_seconds=0.0)
    bucket = store._bucket
    return Backend(store, bucket.write, lambda: {each.path for each in bucket.listed("")})


@pytest.fixture(params=["folder", "s3", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setenv("DRESS_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "folder":
        yield in_folder(tmp_path / "store")
    else:
        yield in_bucket(request.getfixturevalue("bucket_url") if request.param == "s3" else "memory:///")


@pytest.fixture
def store(backend: Backend) -> ArtifactStore:
    return backend.store


def file_of(folder: Path, content: bytes = b"weights", name: str = "file") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def blob(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def result(*files: StoredFile, key: str = KEY) -> StageResult:
    return StageResult(stage="prune", key=key, files=list(files), seconds=1.5)


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What several threads return that begin together."""
    start = threading.Barrier(count)
    returned: list[Any] = []

    def run(number: int) -> None:
        start.wait()
        returned.append(act(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(returned) == count
    return returned


@given(content=st.binary(max_size=300))
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_put_is_fetched(backend: Backend, tmp_path: Path, content: bytes) -> None:
    stored = backend.store.put(file_of(tmp_path, content), "model/weights.bin")
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    fetched = backend.store.fetch(stored, tmp_path / "out")
    assert fetched == tmp_path / "out" / "model" / "weights.bin" and fetched.read_bytes() == content
    assert blob(stored.sha256) in backend.places()


def test_a_file_of_many_parts(store: ArtifactStore, tmp_path: Path) -> None:
    content = hashlib.shake_256(b"seed").digest(2 * PART_BYTES + 4321)
    stored = store.put(file_of(tmp_path, content), "file")
    assert stored.size_bytes == len(content)
    assert store.fetch(stored, tmp_path / "out").read_bytes() == content


def test_putting_again_changes_nothing(backend: Backend, tmp_path: Path) -> None:
    first = backend.store.put(file_of(tmp_path), "file")
    there = backend.places()
    assert backend.store.put(file_of(tmp_path), "file") == first and backend.places() == there


def test_many_put_the_same_at_once(backend: Backend, tmp_path: Path) -> None:
    file = file_of(tmp_path, b"same" * 1000)
    stored = at_once(6, lambda _: backend.store.put(file, "file"))
    assert len(set(each.sha256 for each in stored)) == 1
    assert backend.places() == {blob(stored[0].sha256)}
    assert backend.store.fetch(stored[0], tmp_path / "out").read_bytes() == b"same" * 1000


def test_editing_a_fetched_file_leaves_the_store_alone(store: ArtifactStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    fetched = store.fetch(stored, tmp_path / "out")
    fetched.chmod(0o644)
    fetched.write_bytes(b"edited!")
    assert store.fetch(stored, tmp_path / "again").read_bytes() == b"weights"


@pytest.mark.parametrize("damage", [b"wEights", b"weight", b"weights and more"])
def test_damaged_bytes_are_found_out_named_and_made_again(backend: Backend, tmp_path: Path, damage: bytes) -> None:
    store = backend.store
    stored = store.put(file_of(tmp_path), "model/file")
    store.publish(result(stored))
    backend.write(blob(stored.sha256), damage)
    with pytest.raises(Transient, match=rf"model/file \({stored.sha256}\) are damaged"):
        store.fetch(stored, tmp_path / "out")
    assert not (tmp_path / "out" / "model" / "file").exists()
    assert store.find(KEY) is None and blob(stored.sha256) not in backend.places()
    store.put(tmp_path / "file", "model/file")
    assert store.find(KEY) is not None
    assert store.fetch(stored, tmp_path / "out").read_bytes() == b"weights"


def test_putting_mends_damage_that_nobody_has_seen(backend: Backend, tmp_path: Path) -> None:
    stored = backend.store.put(file_of(tmp_path), "file")
    backend.write(blob(stored.sha256), b"wEights")
    backend.store.put(file_of(tmp_path), "file")
    assert backend.store.fetch(stored, tmp_path / "out").read_bytes() == b"weights"


def test_missing_bytes_are_a_passing_fault(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(Transient, match="file"):
        store.fetch(StoredFile(path="file", sha256=OTHER, size_bytes=1), tmp_path / "out")
    assert store.where(OTHER, 60.0) is None


def test_a_file_that_cannot_be_read_is_a_passing_fault(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(Transient, match="nothing-here"):
        store.put(tmp_path / "nothing-here", "file")


def test_results_are_found_only_whole(backend: Backend, tmp_path: Path) -> None:
    store = backend.store
    assert store.find(KEY) is None
    stored = store.put(file_of(tmp_path), "file")
    measured = result(stored).model_copy(update={"measurements": {"pruned": Measurement(perplexity={"a": None})}})
    store.publish(measured)
    assert store.find(KEY) == measured and store.find(OTHER) is None
    backend.write(blob(stored.sha256), b"short")
    assert store.find(KEY) is None
    backend.write(f"stages/{KEY}.json", b"{")
    assert store.find(KEY) is None


def test_a_claim_is_one_owners_until_it_expires(store: ArtifactStore) -> None:
    assert store.claim(KEY, "one", 60)
    assert store.claim(KEY, "one", 60), "its owner may prolong it"
    assert not store.claim(KEY, "two", 60)
    assert store.claim(OTHER, "two", 60), "another stage is another claim"
    store.release(KEY, "two")
    assert not store.claim(KEY, "two", 60), "only its owner releases it"
    store.release(KEY, "one")
    store.release(KEY, "one")
    assert store.claim(KEY, "two", 0)
    assert store.claim(KEY, "one", 60), "an expired claim is free"
    assert not store.claim(KEY, "two", 60)


def test_many_claimants_one_winner(store: ArtifactStore) -> None:
    assert at_once(8, lambda number: store.claim(KEY, f"owner {number}", 60)).count(True) == 1


def test_many_take_over_one_wins(store: ArtifactStore) -> None:
    assert store.claim(KEY, "dead", 0)
    assert at_once(8, lambda number: store.claim(KEY, f"owner {number}", 60)).count(True) == 1


def test_the_newest_checkpoint_replaces_the_older(backend: Backend, tmp_path: Path) -> None:
    store = backend.store
    assert store.load_checkpoint(KEY, tmp_path / "back") is None
    for step in (9, 10, 100):
        file_of(tmp_path / "state" / "deep", str(step).encode())
        store.save_checkpoint(KEY, step, tmp_path / "state")
    assert {place.split("/")[2].removesuffix(".json") for place in backend.places()} == {f"{100:012d}"}
    assert store.load_checkpoint(KEY, tmp_path / "back") == 100
    assert [file.relative_to(tmp_path / "back").as_posix() for file in (tmp_path / "back").rglob("*.*")] == []
    assert (tmp_path / "back" / "deep" / "file").read_bytes() == b"100"
    store.save_checkpoint(KEY, 100, tmp_path / "state")
    store.drop_checkpoint(KEY)
    store.drop_checkpoint(KEY)
    assert store.load_checkpoint(KEY, tmp_path / "back") is None and backend.places() == set()


def test_a_damaged_checkpoint_is_passed_over(backend: Backend, tmp_path: Path) -> None:
    store = backend.store
    file_of(tmp_path / "state", b"moments")
    store.save_checkpoint(KEY, 7, tmp_path / "state")
    backend.write(f"checkpoints/{KEY}/{7:012d}/file", b"mOments")
    other = file_of(tmp_path / "back", b"of somebody else", "other")
    assert store.load_checkpoint(KEY, tmp_path / "back") is None
    assert list((tmp_path / "back").iterdir()) == [other]
    store.save_checkpoint(KEY, 7, tmp_path / "state")
    assert store.load_checkpoint(KEY, tmp_path / "back") == 7
    assert (tmp_path / "back" / "file").read_bytes() == b"moments" and other.read_bytes() == b"of somebody else"


def test_bytes_are_listed_with_their_age_and_deleted_by_it(backend: Backend, tmp_path: Path) -> None:
    store = backend.store
    stored = [store.put(file_of(tmp_path, content), "file") for content in (b"one", b"three")]
    listed = {each.sha256: each for each in store.digests(0.0)}
    assert {sha256: each.size_bytes for sha256, each in listed.items()} == {
        each.sha256: each.size_bytes for each in stored
    }
    assert all(0.0 <= each.age_seconds < 600.0 for each in listed.values())
    assert list(store.digests(3600.0)) == []
    assert not store.delete(stored[0].sha256, 3600.0), "it was put just now"
    assert store.delete(stored[0].sha256, 0.0)
    assert not store.delete(stored[0].sha256, 0.0), "there is nothing any more"
    assert [each.sha256 for each in store.digests(0.0)] == [stored[1].sha256]
    assert backend.places() == {blob(stored[1].sha256)}


def test_results_are_listed_and_dropped_by_how_long_nobody_needed_them(store: ArtifactStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    store.publish(result(stored))
    store.publish(result(key=OTHER))
    (listed,) = store.results()
    assert (listed.key, listed.digests) == (KEY, {stored.sha256}) and 0.0 <= listed.idle_seconds < 600.0
    assert store.find(KEY) is not None
    assert not store.drop_result(KEY, 3600.0), "it was needed just now"
    assert store.drop_result(KEY, 0.0) and store.find(KEY) is None and list(store.results()) == []
    assert store.drop_result(KEY, 0.0), "it is gone"
    assert store.holds(stored.sha256) and not store.holds(OTHER)


def test_bytes_can_be_read_by_others(store: ArtifactStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path, b"0123456789"), "file")
    match store.where(stored.sha256, 60.0):
        case OnDisk(file):
            assert file.read_bytes() == b"0123456789"
        case Elsewhere(url):
            answer = httpx2.get(url, headers={"Range": "bytes=3-"}, trust_env=False, timeout=60)
            assert (answer.status_code, answer.content) == (206, b"3456789")
            assert answer.headers["Content-Disposition"] == "attachment"
            assert answer.headers["Content-Type"] == "application/octet-stream"
        case Streamed(read):
            assert b"".join(read(3, 4)) == b"3456"
        case other:
            raise AssertionError(other)


def test_without_a_url_bytes_come_through_this_process(store: ArtifactStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path, b"0123456789"), "file")
    match store.where(stored.sha256, 0.0):
        case OnDisk(file):
            assert file.read_bytes() == b"0123456789"
        case Streamed(read):
            assert b"".join(read(0, 10)) == b"0123456789"
        case other:
            raise AssertionError(other)


def test_uploads(backend: Backend, tmp_path: Path) -> None:
    uploads = backend.store.uploads
    digest = hashlib.sha256(b"What every layer reads.").hexdigest()
    with uploads.drafting() as draft:
        draft.write(b"What every ")
        draft.write(b"layer reads.")
        assert draft.seal() == digest and not uploads.holds(digest), "not before it is kept"
        draft.keep()
    assert uploads.holds(digest) and uploads.digests(0.0) == [digest] and uploads.digests(3600.0) == []
    assert backend.places() == {f"uploads/{digest[:2]}/{digest}"}
    uploads.fetch(digest, tmp_path / "deep" / "text")
    assert (tmp_path / "deep" / "text").read_bytes() == b"What every layer reads."
    backend.write(f"uploads/{digest[:2]}/{digest}", b"WHAT every layer reads.")
    (tmp_path / "cache" / "uploads" / digest[:2] / digest).unlink(missing_ok=True)
    with pytest.raises(Transient, match=f"{digest} are damaged"):
        uploads.fetch(digest, tmp_path / "text")
    assert not (tmp_path / "text").exists()
    uploads.discard(digest)
    uploads.discard(digest)
    assert not uploads.holds(digest) and backend.places() == set()
    with pytest.raises(Transient, match=digest):
        uploads.fetch(digest, tmp_path / "text")


def test_a_draft_that_nobody_keeps_is_gone(backend: Backend) -> None:
    with pytest.raises(RuntimeError), backend.store.uploads.drafting() as draft:
        draft.write(b"What")
        raise RuntimeError
    with backend.store.uploads.drafting():
        pass
    assert backend.places() == set()


def test_it_sweeps_without_touching_what_is_needed(backend: Backend, tmp_path: Path) -> None:
    store = backend.store
    stored = store.put(file_of(tmp_path), "file")
    store.publish(result(stored))
    assert store.claim(OTHER, "one", 60)
    store.save_checkpoint(OTHER, 1, file_of(tmp_path / "state").parent)
    there = backend.places()
    store.save_checkpoint(KEY, 1, tmp_path / "state")
    store.sweep()
    assert backend.places() == there, "only the checkpoint of the finished stage went"


def test_it_travels_and_carries_no_secret(store: ArtifactStore, tmp_path: Path) -> None:
    travelled = pickle.dumps(store)
    assert b"AWS" not in travelled and b"secret" not in travelled.lower() and len(travelled) < 300
    assert repr(pickle.loads(travelled)) == repr(store)
