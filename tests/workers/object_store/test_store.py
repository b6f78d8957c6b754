"""What is an object store's own: nothing sent twice, killed writers, removals that race a put, sweeping, memory."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.object_server import ENVIRONMENT, ObjectServer, Reset, Times
from tests.processes import DEADLINE_SECONDS
from workers.contracts.results import StageResult, StoredFile
from workers.errors import Transient
from workers.object_store import bucket as bucket_module
from workers.object_store import removals, sending
from workers.object_store import store as store_module
from workers.object_store.bucket import PART_BYTES
from workers.object_store.store import ObjectStore

KEY = "d" * 64


@pytest.fixture
def store(bucket_url: str) -> ObjectStore:
    return ObjectStore(bucket_url, retries=1)


def file_of(folder: Path, content: bytes = b"weights", name: str = "file") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def places(store: ObjectStore) -> list[str]:
    return sorted(each.path for each in store._bucket.listed(""))


def running(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A process of its own, with this environment, that runs the code."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=dict(os.environ))


PUT_ALL = """
import sys
from pathlib import Path
from workers.object_store.store import ObjectStore
store = ObjectStore(sys.argv[1])
for file in sorted(Path(sys.argv[2]).iterdir()):
    store.put(file, file.name)
"""


def test_a_writer_killed_in_the_middle_leaves_nothing_and_its_successor_sends_the_rest(
    store: ObjectStore, object_server: ObjectServer, tmp_path: Path
) -> None:
    content = hashlib.shake_256(b"large").digest(2 * PART_BYTES + 99)
    folder = file_of(tmp_path / "model", b"small", "1-small").parent
    large = file_of(folder, content, "2-large")
    sha256 = hashlib.sha256(content).hexdigest()
    reached, over = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "PUT" and "partNumber=3" in path:
            reached.set()
            over.wait(DEADLINE_SECONDS)
            raise Reset

    object_server.fault = hold
    writer = running(PUT_ALL, store.url, folder)
    assert reached.wait(60), "it never got to the last part"
    writer.kill()
    writer.wait(DEADLINE_SECONDS)
    over.set()
    assert store.where(sha256, 60.0) is None, "no part of it can be seen"
    assert [each.size_bytes for each in store.digests(0.0)] == [5]
    object_server.settle()
    assert running(PUT_ALL, store.url, folder).wait(60) == 0
    assert [each.path for each in object_server.asked("PUT", "blobs") if sha256 not in each.path] == []
    stored = StoredFile(path="large", sha256=sha256, size_bytes=len(content))
    assert store.fetch(stored, tmp_path / "out").read_bytes() == large.read_bytes()


def test_what_is_there_is_not_sent_again(store: ObjectStore, object_server: ObjectServer, tmp_path: Path) -> None:
    store.put(file_of(tmp_path), "file")
    object_server.requests.clear()
    ObjectStore(store.url).put(tmp_path / "file", "another/name")
    assert object_server.asked("PUT", "blobs") == []
    object_server.requests.clear()
    ObjectStore(store.url, fresh_seconds=0.0).put(tmp_path / "file", "file")
    assert len(object_server.asked("PUT", "blobs")) == 1, "older bytes are, so that their age begins anew"


def test_a_file_that_changes_while_it_is_sent_is_not_kept(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = file_of(tmp_path), file_of(tmp_path, bytes(PART_BYTES + 1), "large")
    monkeypatch.setattr(store_module, "digest_of", lambda file: ("0" * 64, file.stat().st_size))
    for file in (small, large):
        with pytest.raises(Transient, match="changed while it was stored"):
            store.put(file, "file")
    assert places(store) == []


def test_an_object_that_is_not_there_in_full_is_told(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(tmp_path)
    monkeypatch.setattr(store._bucket, "write", lambda path, content: None)
    with pytest.raises(Transient, match="not there in full size"):
        sending.send_file(store._bucket, file, "blobs/there")


def test_a_reader_goes_on_where_another_broke_off(
    store: ObjectStore, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 4
    stored = store.put(file_of(tmp_path, content), "file")
    monkeypatch.setattr(bucket_module, "PART_BYTES", 100)
    object_server.fault = lambda _method, _path: _broken_after(object_server, "bytes=400-499")
    with pytest.raises(Transient, match="could not be read"):
        store.fetch(stored, tmp_path / "one")
    object_server.settle()
    assert ObjectStore(store.url).fetch(stored, tmp_path / "two").read_bytes() == content
    ranges = [each.byte_range or "" for each in object_server.asked("GET", "blobs")]
    firsts = sorted(int(each.removeprefix("bytes=").partition("-")[0]) for each in ranges)
    assert firsts == list(range(400, 1024, 100)), "what had come was not asked for again"


def _broken_after(server: ObjectServer, byte_range: str) -> None:
    if server.requests[-1].byte_range == byte_range:
        raise Reset


def test_a_model_is_read_once_a_node(store: ObjectStore, object_server: ObjectServer, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    object_server.requests.clear()
    for number in range(3):
        ObjectStore(store.url).fetch(stored, tmp_path / str(number))
    assert len(object_server.asked("GET", "blobs")) == 1


def test_only_old_enough_bytes_are_deleted(store: ObjectStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    with pytest.raises(ValueError, match=r"7200\.0 s"):
        store.delete(stored.sha256, 7199.0)
    assert not store.delete(stored.sha256, 7200.0)
    assert store.where(stored.sha256, 0.0) is not None


def raced(
    object_server: ObjectServer, remove: Callable[[], bool], renew: Callable[[], Any], *, overtaken: bool
) -> tuple[list[bool], Any]:
    """What both answer, where a removal that has decided is held up until the other side has written and looks around.

    Args:
        overtaken: the look itself is held up until the removal is over, and its mark is gone.
    """
    decided, looked, over = threading.Event(), threading.Event(), threading.Event()

    def in_turns(method: str, path: str) -> None:
        if method == "GET" and "condemned" in path:
            looked.set()
            assert not overtaken or over.wait(DEADLINE_SECONDS)
        elif method == "POST" and path.endswith("?delete") and not decided.is_set():
            decided.set()
            assert looked.wait(DEADLINE_SECONDS)

    def act() -> None:
        removed.append(remove())
        over.set()

    object_server.fault = in_turns
    removed: list[bool] = []
    removing = threading.Thread(target=act)
    removing.start()
    assert decided.wait(DEADLINE_SECONDS)
    renewed = renew()
    removing.join(DEADLINE_SECONDS)
    return removed, renewed


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_put_that_meets_a_removal_comes_after_it(
    overtaken: bool, bucket_url: str, object_server: ObjectServer, tmp_path: Path
) -> None:
    store = ObjectStore(bucket_url, fresh_seconds=0.0)
    file = file_of(tmp_path)
    stored = store.put(file, "file")
    deleted, again = raced(
        object_server, lambda: store.delete(stored.sha256, 0.0), lambda: store.put(file, "file"), overtaken=overtaken
    )
    assert deleted == [True] and again == stored
    assert places(store) == [f"blobs/{stored.sha256[:2]}/{stored.sha256}"]


def test_a_removal_whose_process_died_holds_nobody_up_for_ever(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(tmp_path)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    store._bucket.write(f"condemned/blobs/{sha256[:2]}/{sha256}/dead", b"")
    monkeypatch.setattr(removals, "OUTWAIT_SECONDS", 0.0)
    store.put(file, "file")
    assert places(store) == [f"blobs/{sha256[:2]}/{sha256}"]


def test_a_removal_that_dawdles_does_nothing(bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(bucket_url, fresh_seconds=0.0)
    stored = store.put(file_of(tmp_path), "file")
    monkeypatch.setattr(removals, "DECIDE_SECONDS", -1.0)
    assert not store.delete(stored.sha256, 0.0) and store.where(stored.sha256, 0.0) is not None


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_result_that_is_found_while_it_is_dropped_is_found_or_gone(
    overtaken: bool, bucket_url: str, object_server: ObjectServer, tmp_path: Path
) -> None:
    store = ObjectStore(bucket_url, fresh_seconds=0.0)
    store.publish(StageResult(stage="prune", key=KEY, files=[store.put(file_of(tmp_path), "file")], seconds=1.0))
    dropped, found = raced(
        object_server, lambda: store.drop_result(KEY, 0.0), lambda: store.find(KEY), overtaken=overtaken
    )
    assert dropped == [True] and found is None


def test_finding_is_noted_once_an_hour(
    bucket_url: str, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(bucket_url)
    store.publish(StageResult(stage="prune", key=KEY, files=[store.put(file_of(tmp_path), "file")], seconds=1.0))
    assert store.find(KEY) is not None
    assert object_server.asked("PUT", "needed") == [], "it was published just now"
    now = time.time() + 7000.0
    monkeypatch.setattr(store_module.time, "time", lambda: now)
    assert store.find(KEY) is not None
    assert len(object_server.asked("PUT", "needed")) == 1
    now -= 4000.0  # the note is of the server's own time, which has not passed
    assert store.find(KEY) is not None
    assert len(object_server.asked("PUT", "needed")) == 1, "it was published less than an hour ago"
    with pytest.raises(ValueError, match=r"7200\.0 s"):
        store.drop_result(KEY, 7199.0)


def test_what_cannot_be_tidied_up_fails_no_stage(
    store: ObjectStore, object_server: ObjectServer, tmp_path: Path
) -> None:
    assert store.claim(KEY, "one", 60)
    store.save_checkpoint(KEY, 1, file_of(tmp_path / "state").parent)
    object_server.fault = Times(1000, Reset, "GET", "")
    store.release(KEY, "one")
    store.drop_checkpoint(KEY)


def test_damage_that_was_mended_meanwhile_is_left_alone(store: ObjectStore, tmp_path: Path) -> None:
    stored = store.put(file_of(tmp_path), "file")
    path = f"blobs/{stored.sha256[:2]}/{stored.sha256}"
    store._bucket.write(path, b"wEights")
    damaged = store._bucket.look(path)
    store._bucket.write(path, b"weights")
    assert damaged is not None
    store._discard_damaged(damaged)
    assert store.fetch(stored, tmp_path / "out").read_bytes() == b"weights"


def test_what_is_old_is_swept(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store.put(file_of(tmp_path), "file")
    store.publish(StageResult(stage="prune", key=KEY, files=[stored], seconds=1.0))
    kept = places(store)
    store.save_checkpoint("e" * 64, 1, file_of(tmp_path / "state").parent)
    assert store.claim("e" * 64, "one", 60)
    store._bucket.write("incoming/draft", b"half a text")
    store._bucket.write(f"checkpoints/{'e' * 64}/{2:012d}/file", b"of a writer that was killed")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 24 * 3600)
    store.sweep()
    remaining = [place for place in places(store) if place not in kept]
    assert remaining == [f"checkpoints/{'e' * 64}/{1:012d}.json", f"checkpoints/{'e' * 64}/{1:012d}/file"]
    assert ObjectStore(store.url).load_checkpoint("e" * 64, tmp_path / "back") == 1
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
    store.sweep()
    assert places(store) == kept


def test_a_store_that_is_silent_stops_no_sweep_of_its_caller(store: ObjectStore, object_server: ObjectServer) -> None:
    object_server.fault = Times(1000, Reset, "GET", "")
    store.sweep()


def test_a_checkpoint_is_whole_or_not_there(store: ObjectStore, object_server: ObjectServer, tmp_path: Path) -> None:
    folder = file_of(tmp_path / "state", b"weights", "a").parent
    file_of(folder, b"moments", "b")
    store.save_checkpoint(KEY, 1, folder)
    object_server.fault = Times(1000, Reset, "PUT", f"{2:012d}/b")
    with pytest.raises(Transient):
        store.save_checkpoint(KEY, 2, folder)
    object_server.settle()
    assert store.load_checkpoint(KEY, tmp_path / "back") == 1


def test_its_place_is_told_by_the_environment_of_who_opens_it(store: ObjectStore, tmp_path: Path) -> None:
    """As on another node: it gets the URL alone, and reads the rest from its own environment."""
    stored = store.put(file_of(tmp_path), "file")
    code = (
        "import pickle, sys; from pathlib import Path; from workers.contracts.results import StoredFile\n"
        "store = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "store.fetch(StoredFile.model_validate_json(sys.argv[2]), Path(sys.argv[3]))"
    )
    travelled = pickle.dumps(store)
    assert not any(secret.encode() in travelled for secret in ENVIRONMENT.values() if secret != "us-east-1")
    assert running(code, travelled.hex(), stored.model_dump_json(), tmp_path / "there").wait(60) == 0
    assert (tmp_path / "there" / "file").read_bytes() == b"weights"


MEASURED = """
import resource, sys
from pathlib import Path
from workers.contracts.results import StoredFile
from workers.object_store.store import ObjectStore
store = ObjectStore(sys.argv[1])
store.put(Path(sys.argv[3]), "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stored = store.put(Path(sys.argv[2]), "large")
store.fetch(stored, Path(sys.argv[4]))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
sys.exit(grown // 1024 >= int(sys.argv[5]))
"""


@pytest.mark.slow
def test_a_large_file_is_never_in_memory_as_a_whole(store: ObjectStore, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as stream:
        for number in range(24):
            stream.write(bytes([number]) * PART_BYTES)
    bound_mib = 10 * PART_BYTES // 2**20
    assert running(MEASURED, store.url, large, file_of(tmp_path), tmp_path / "out", bound_mib).wait(240) == 0
    assert (tmp_path / "out" / "large").stat().st_size == 24 * PART_BYTES
