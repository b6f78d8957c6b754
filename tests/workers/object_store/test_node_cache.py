"""A node's cache: each file comes once, goes when room is needed, never while it is in use, and is always right."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.processes import DEADLINE_SECONDS
from tests.tiny_disk import tiny_disk
from workers.errors import StorageFull, Transient
from workers.object_store import node_cache
from workers.object_store.node_cache import NodeCache, WrongBytes


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Source:
    """Hands out bytes, and remembers from where they were asked for."""

    def __init__(self, content: bytes, breaks_after: int | None = None) -> None:
        self.content, self.breaks_after, self.asked = content, breaks_after, list[int]()

    def __call__(self, first: int) -> Iterator[bytes]:
        self.asked.append(first)
        for place in range(first, len(self.content)):
            if place == self.breaks_after:
                raise Transient("the network is gone")
            yield self.content[place : place + 1]


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", most_bytes=100)


def held(cache: NodeCache) -> set[str]:
    return {file.name for file in cache.root.glob("blobs/??/*")}


def test_a_file_comes_once_a_node(cache: NodeCache, tmp_path: Path) -> None:
    source = Source(b"weights")
    for name in ("one", "two"):
        cache.place("blobs", digest(b"weights"), tmp_path / name / "file", source)
        assert (tmp_path / name / "file").read_bytes() == b"weights"
    assert source.asked == [0]
    assert (tmp_path / "one" / "file").samefile(tmp_path / "two" / "file"), "it takes no room twice"
    assert list((cache.root / "parts").iterdir()) == []


def test_an_empty_file(cache: NodeCache, tmp_path: Path) -> None:
    for name in ("one", "two"):
        cache.place("blobs", digest(b""), tmp_path / name, Source(b""))
        assert (tmp_path / name).read_bytes() == b""


def test_those_who_want_the_same_wait_for_one(cache: NodeCache, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    asked = []

    def slowly(first: int) -> Iterator[bytes]:
        asked.append(first)
        begun.set()
        assert go_on.wait(DEADLINE_SECONDS)
        yield b"weights"

    def place(number: int) -> None:
        cache.place("blobs", digest(b"weights"), tmp_path / str(number), slowly)

    threads = [threading.Thread(target=place, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    assert begun.wait(DEADLINE_SECONDS)
    go_on.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert [(tmp_path / str(number)).read_bytes() for number in range(5)] == [b"weights"] * 5
    assert asked == [0]


def test_an_interrupted_download_goes_on(cache: NodeCache, tmp_path: Path) -> None:
    with pytest.raises(Transient, match="network"):
        cache.place("blobs", digest(b"weights"), tmp_path / "file", Source(b"weights", breaks_after=4))
    assert not (tmp_path / "file").exists() and held(cache) == set()
    again = Source(b"weights")
    cache.place("blobs", digest(b"weights"), tmp_path / "file", again)
    assert again.asked == [4] and (tmp_path / "file").read_bytes() == b"weights"


def test_a_part_of_other_bytes_is_fetched_from_the_start(cache: NodeCache, tmp_path: Path) -> None:
    with pytest.raises(Transient):
        cache.place("blobs", digest(b"weights"), tmp_path / "file", Source(b"WEIGHTS", breaks_after=4))
    again = Source(b"weights")
    cache.place("blobs", digest(b"weights"), tmp_path / "file", again)
    assert again.asked == [4, 0] and (tmp_path / "file").read_bytes() == b"weights"


def test_what_could_not_be_handed_out_is_gone_on_with(
    cache: NodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that were read-only could not be written to again; root would not notice."""

    link = node_cache._link

    def full(source: Path, target: Path) -> None:
        if source.parent.name == "parts":
            raise OSError(errno.ENOSPC, "no room")
        link(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(node_cache, "_link", full)
        with pytest.raises(StorageFull):
            cache.place("blobs", digest(b"weights"), tmp_path / "file", Source(b"weights"))
    (part,) = (cache.root / "parts").iterdir()
    assert part.stat().st_mode & 0o200
    cache.place("blobs", digest(b"weights"), tmp_path / "file", Source(b"weights"))
    assert (tmp_path / "file").read_bytes() == b"weights" and not (tmp_path / "file").stat().st_mode & 0o222


def test_wrong_bytes_are_not_kept(cache: NodeCache, tmp_path: Path) -> None:
    source = Source(b"wEights")
    with pytest.raises(WrongBytes):
        cache.place("blobs", digest(b"weights"), tmp_path / "file", source)
    assert source.asked == [0, 0], "it may have been the network"
    assert not (tmp_path / "file").exists() and held(cache) == set() and not list((cache.root / "parts").iterdir())


def test_what_the_nodes_disk_lost_is_fetched_anew(cache: NodeCache, tmp_path: Path) -> None:
    sha256 = digest(b"weights")
    cache.place("blobs", sha256, tmp_path / "one", Source(b"weights"))
    entry = cache.root / "blobs" / sha256[:2] / sha256
    entry.chmod(0o644)
    entry.write_bytes(b"wEights")
    again = Source(b"weights")
    cache.place("blobs", sha256, tmp_path / "two", again)
    assert again.asked == [0] and (tmp_path / "two").read_bytes() == entry.read_bytes() == b"weights"


def test_the_least_recently_used_goes_first(cache: NodeCache, tmp_path: Path) -> None:
    contents = {name: name.encode() * 40 for name in "abc"}
    for age, name in enumerate("ab"):
        sha256 = digest(contents[name])
        cache.place("blobs", sha256, tmp_path / name, Source(contents[name]))
        os.utime(cache.root / "blobs" / sha256[:2] / sha256, (age, age))
        (tmp_path / name).unlink()
    used = Source(contents["a"])
    cache.place("blobs", digest(contents["a"]), tmp_path / "a", used)
    (tmp_path / "a").unlink()
    assert used.asked == []
    cache.place("blobs", digest(contents["c"]), tmp_path / "c", Source(contents["c"]))
    assert held(cache) == {digest(contents["a"]), digest(contents["c"])}


def test_what_is_in_use_stays_and_can_be_mapped(cache: NodeCache, tmp_path: Path) -> None:
    first, second = b"a" * 80, b"b" * 80
    cache.place("blobs", digest(first), tmp_path / "first", Source(first))
    with (tmp_path / "first").open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        cache.place("blobs", digest(second), tmp_path / "second", Source(second))
        assert held(cache) == {digest(first)}, "there is no room for both, and the first is in use"
        assert (tmp_path / "second").read_bytes() == second and mapped[:] == first
        (tmp_path / "first").unlink()
        (tmp_path / "second").unlink()
        cache.place("blobs", digest(second), tmp_path / "second", Source(second))
        assert held(cache) == {digest(second)} and mapped[:] == first


def test_what_is_larger_than_the_cache_is_handed_out_and_not_kept(cache: NodeCache, tmp_path: Path) -> None:
    content = b"x" * 101
    cache.place("blobs", digest(content), tmp_path / "file", Source(content))
    assert (tmp_path / "file").read_bytes() == content and held(cache) == set()


def test_kinds_are_kept_apart(cache: NodeCache, tmp_path: Path) -> None:
    cache.place("blobs", digest(b"text"), tmp_path / "one", Source(b"text"))
    other = Source(b"text")
    cache.place("uploads", digest(b"text"), tmp_path / "two", other)
    assert other.asked == [0]


def test_old_parts_are_swept(cache: NodeCache, tmp_path: Path) -> None:
    for name in (b"old", b"new"):
        with pytest.raises(Transient):
            cache.place("blobs", digest(name), tmp_path / "file", Source(name, breaks_after=1))
    os.utime(cache.root / "parts" / f"blobs-{digest(b'old')}", (0, 0))
    cache.place("blobs", digest(b"x"), tmp_path / "file", Source(b"x"))
    assert [part.name for part in (cache.root / "parts").iterdir()] == [f"blobs-{digest(b'new')}"]


def test_a_full_disk_gives_up_what_nobody_uses_and_then_tells(tmp_path: Path) -> None:
    unused, wanted, huge = (name * 600 * 1024 for name in (b"u", b"w", b"h"))
    with tiny_disk(tmp_path / "disk", size_kib=1024) as disk:
        cache = NodeCache(disk / "cache", most_bytes=10**9)
        cache.place("blobs", digest(unused), disk / "file", lambda first: [unused[first:]])
        (disk / "file").unlink()
        cache.place("blobs", digest(wanted), disk / "wanted", lambda first: [wanted[first:]])
        assert held(cache) == {digest(wanted)} and (disk / "wanted").read_bytes() == wanted
        with pytest.raises(StorageFull, match="huge could not be placed.*free space"):
            cache.place("blobs", digest(huge), disk / "huge", lambda first: [huge[first:]])
        assert not (disk / "huge").exists() and not list((disk / "cache" / "parts").iterdir())
        assert held(cache) == {digest(wanted)}, "it is in use"


def test_a_target_on_another_disk_gets_a_copy(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", size_kib=256) as disk:
        cache = NodeCache(disk, most_bytes=100)
        source = Source(b"weights")
        for name in ("one", "two"):
            cache.place("blobs", digest(b"weights"), tmp_path / name, source)
            assert (tmp_path / name).read_bytes() == b"weights"
        assert source.asked == [0] and not (tmp_path / "one").samefile(tmp_path / "two")


@pytest.mark.parametrize("told", ["much", "-1", "nan"])
def test_a_size_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("DRESS_CACHE_GIB", told)
    with pytest.raises(Transient, match="DRESS_CACHE_GIB"):
        NodeCache.of_this_machine()


def test_it_is_where_and_as_large_as_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRESS_CACHE_GIB", "0.5")
    monkeypatch.setenv("DRESS_CACHE_DIR", str(tmp_path / "mine"))
    cache = NodeCache.of_this_machine()
    assert (cache.root, cache.most_bytes) == (tmp_path / "mine", 2**29)
    monkeypatch.delenv("DRESS_CACHE_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert NodeCache.of_this_machine().root.parent == tmp_path


class Use(RuleBasedStateMachine):
    """Files come and go in any order; who has one always has the right bytes, and the cache keeps to its size."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.cache = NodeCache(self.root / "cache", most_bytes=50)
        self.in_use: dict[str, bytes] = {}
        self.count = 0

    @rule(letter=st.sampled_from("abcd"), size=st.sampled_from([10, 25, 45, 60]))
    def place(self, letter: str, size: int) -> None:
        content = letter.encode() * size
        name = str(self.count)
        self.count += 1
        self.cache.place("blobs", digest(content), self.root / name, Source(content))
        self.in_use[name] = content

    @rule(pick=st.randoms(use_true_random=False))
    def let_go(self, pick) -> None:
        if self.in_use:
            name = pick.choice(sorted(self.in_use))
            del self.in_use[name]
            (self.root / name).unlink()

    @invariant()
    def what_is_in_use_is_right(self) -> None:
        for name, content in self.in_use.items():
            assert (self.root / name).read_bytes() == content

    @invariant()
    def it_keeps_to_its_size(self) -> None:
        assert sum(file.stat().st_size for file in self.cache.root.glob("blobs/??/*")) <= 50

    def teardown(self) -> None:
        self._folder.cleanup()


TestUse = Use.TestCase
TestUse.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
