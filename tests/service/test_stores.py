"""Which store a URL names, what is refused, and attempts whose files lie in an object store."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from service.artifacts.stores import answering, open_store
from service.dispatch.inline_runner import InlineRunner
from service.errors import Misconfigured, StoreSilent
from tests.service.test_runners import collect, order
from workers.contracts.events import ArtifactStored
from workers.contracts.recipe import Recipe
from workers.errors import Transient
from workers.local_store import LocalStore
from workers.object_store.store import ObjectStore


def test_the_scheme_tells_the_store(tmp_path: Path, bucket_url: str) -> None:
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    store = open_store(bucket_url + "/")
    assert isinstance(store, ObjectStore) and store.url == bucket_url


def test_no_store_is_asked_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert isinstance(open_store("s3://bucket/prefix"), ObjectStore)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("ftp://bucket", "known are az://, file://, gs://, s3://"),
        ("bucket/prefix", "a URL without scheme"),
        ("s3:///prefix", "write s3://bucket/prefix"),
        ("s3://bucket/prefix?region=here", "AWS_ENDPOINT_URL"),
        ("s3://key:secret@bucket/prefix", "AWS_ACCESS_KEY_ID"),
        ("az://container/prefix", "Account must be specified.*environment"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_with_a_remedy(url: str, remedy: str) -> None:
    with pytest.raises(Misconfigured, match=remedy) as refusal:
        open_store(url)
    assert "secret" not in str(refusal.value)


def test_silence_is_put_in_words_without_places() -> None:
    with pytest.raises(StoreSilent, match="does not answer") as told, answering():
        raise Transient("s3://models/dress: no route to host")
    assert "s3://" not in str(told.value)


def test_an_attempt_leaves_its_files_in_the_object_store(recipe: Recipe, tmp_path: Path, bucket_url: str) -> None:
    runner, store = InlineRunner(cpus=2), open_store(bucket_url)
    wanted = dataclasses.replace(order(recipe, tmp_path, "whole"), store=pickle.loads(pickle.dumps(store)))
    runner.start(wanted)
    told = [item.event for item in collect(runner, wanted.attempt_id)]
    (stored,) = next(event.files for event in told if isinstance(event, ArtifactStored))
    assert store.fetch(stored, tmp_path / "home").read_text("utf-8") == "{}"
    assert not (tmp_path / "artifacts").exists()
