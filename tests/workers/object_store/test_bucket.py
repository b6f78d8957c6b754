"""Objects over a network that fails: what is tried again, and what is told in the end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from obstore.exceptions import GenericError

from tests.object_server import CutShort, Forbidden, ObjectServer, Reset, Times, Unavailable
from workers.errors import Transient
from workers.object_store import bucket as bucket_module
from workers.object_store.bucket import Bucket

CALLS: dict[str, tuple[str, Callable[[Bucket], Any]]] = {
    "look": ("HEAD", lambda bucket: bucket.look("there")),
    "read": ("GET", lambda bucket: bucket.read("there")),
    "parts": ("GET", lambda bucket: list(bucket.parts("there", 0, 5))),
    "write": ("PUT", lambda bucket: bucket.write("new", b"bytes")),
    "create": ("PUT", lambda bucket: bucket.create("new", b"bytes")),
    "send": ("POST", lambda bucket: bucket.send("new", [b"bytes"], 5)),
    "send a part": ("PUT", lambda bucket: bucket.send("new", [b"bytes"], 5)),
    "listed": ("GET", lambda bucket: list(bucket.listed(""))),
    "copy": ("PUT", lambda bucket: bucket.copy(next(bucket.listed("")), "new")),
    "delete": ("POST", lambda bucket: bucket.delete("there")),
}


@pytest.fixture
def there(bucket_url: str, object_server: ObjectServer) -> str:
    """The URL of a bucket with one object."""
    Bucket(bucket_url).write("there", b"bytes")
    object_server.settle()
    return bucket_url


@pytest.mark.parametrize("kind", [Reset, Unavailable])
@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_fault_that_passes_is_not_noticed(
    there: str, object_server: ObjectServer, name: str, kind: type[Exception]
) -> None:
    method, call = CALLS[name]
    object_server.fault = fault = Times(2, kind, method, "")
    call(Bucket(there, retries=3))
    assert fault.left == 0, "it struck"


@pytest.mark.parametrize("kind", [Reset, Unavailable])
@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_fault_that_stays_is_told_after_some_tries(
    there: str, object_server: ObjectServer, name: str, kind: type[Exception]
) -> None:
    method, call = CALLS[name]
    object_server.fault = fault = Times(1000, kind, method, "")
    with pytest.raises(Transient, match=there):
        call(Bucket(there, retries=2))
    assert 1000 - fault.left >= 3, "it was tried again"
    object_server.settle()
    assert [each.path for each in Bucket(there).listed("")] == ["there"], "nothing is half done"


def test_a_body_that_breaks_off_is_fetched_again(there: str, object_server: ObjectServer) -> None:
    object_server.fault = fault = Times(1, CutShort, "GET", "there")
    assert b"".join(Bucket(there, retries=3).parts("there", 0, 5)) == b"bytes"
    assert fault.left == 0


def test_a_server_that_says_nothing_is_given_up(there: str, object_server: ObjectServer) -> None:
    over = threading.Event()
    object_server.fault = lambda _method, _path: over.wait() and None
    try:
        with pytest.raises(Transient, match="could not be read"):
            Bucket(there, retries=1, silence_seconds=0.3).read("there")
    finally:
        over.set()


def test_credentials_that_are_refused_are_told_with_a_remedy(there: str, object_server: ObjectServer) -> None:
    object_server.fault = Times(1000, Forbidden, "PUT", "")
    with pytest.raises(Transient, match="AWS_ACCESS_KEY_ID"):
        Bucket(there).write("new", b"bytes")


def test_a_bucket_that_is_not_there_is_told(object_server: ObjectServer) -> None:
    bucket = Bucket("s3://no-such-bucket/prefix")
    with pytest.raises(Transient, match="s3://no-such-bucket/prefix.*bucket is not there"):
        bucket.write("new", b"bytes")
    with pytest.raises(Transient, match="s3://no-such-bucket/prefix"):
        list(bucket.listed(""))


def test_a_server_that_is_not_there_is_told(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(Transient, match=f"could not be read.*{port}"):
        Bucket(there, retries=1).read("there")


@pytest.mark.parametrize("url", ["s3:///", "nonsense://bucket", "az://container/prefix", "no url"])
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Bucket(url)


def test_only_one_creates(there: str) -> None:
    bucket = Bucket(there)
    assert bucket.create("claim", b"one") and not bucket.create("claim", b"two")
    assert bucket.read("claim") == b"one"


def test_parts_are_in_order_and_as_many_as_asked_for(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 7)
    bucket, content = Bucket(there), bytes(range(100))
    bucket.write("long", content)
    assert [len(part) for part in bucket.parts("long", 0, 100)] == [7] * 14 + [2]
    assert b"".join(bucket.parts("long", 33, 100)) == content[33:]
    assert list(bucket.parts("long", 100, 100)) == []
    with pytest.raises(Transient, match="ends after 100 of 107"):
        list(bucket.parts("long", 0, 107))


def test_what_is_too_large_to_copy_is_sent_again(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "_MOST_COPY_BYTES", 4)
    bucket = Bucket(there)
    found = bucket.look("there")
    assert found is not None
    bucket.copy(found, "copied")
    assert bucket.read("copied") == b"bytes"


def test_credentials_that_cannot_sign_give_no_url(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> str:
        raise GenericError("no key to sign with")

    bucket = Bucket(there)
    assert (bucket.signed_url("there", 60.0) or "").startswith("http")
    monkeypatch.setattr("obstore.sign", refuse)
    assert bucket.signed_url("there", 60.0) is None


def test_an_iterator_that_fails_leaves_nothing(there: str) -> None:
    def chunks():
        yield bytes(6 * 1024 * 1024)
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        Bucket(there).send("new", chunks(), 2**30)
    assert Bucket(there).look("new") is None
