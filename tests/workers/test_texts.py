"""Uploaded texts are read by digest, as files of one's own are; and a store that lacks them says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import changed
from workers import texts
from workers.contracts.places import Places
from workers.contracts.recipe import DataSettings, Recipe
from workers.datasets import dataset
from workers.errors import RecipeError, Transient
from workers.local_store import LocalStore
from workers.workbench import Workbench

NOWHERE = Places(data_roots=[])
"""Places in which no path of one's own may be read."""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def upload(store: LocalStore, content: bytes) -> str:
    with store.uploads.drafting() as draft:
        draft.write(content)
        sha256 = draft.seal()
        draft.keep()
    return sha256


def named(sha256: str | None) -> DataSettings:
    return DataSettings(name="text", dataset="dataset_1", dataset_sha256=sha256)


def test_an_upload_reads_as_the_file_does(store: LocalStore, tmp_path: Path) -> None:
    content = "\nEins,\nnoch eins.\n\n \nZwei – 東京\r\n\r\nDrei".encode()
    (tmp_path / "own.txt").write_bytes(content)
    by_path = dataset.load("text", "train", Places(), str(tmp_path / "own.txt"))
    assert texts.load(named(upload(store, content)), "train", NOWHERE, store, "data.name") == by_path


def test_only_what_the_text_needs_is_read_and_nothing_stays(store: LocalStore, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    texts.load(named(upload(store, b"One.")), "train", NOWHERE, store, "data.name", scratch)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("sha256", "words"), [("0" * 64, "not in this artifact store.*give it as `path`"), (None, "as `path` here")]
)
def test_what_the_store_lacks_is_told_with_a_remedy(store: LocalStore, sha256: str | None, words: str) -> None:
    for field in ("data.name", "evaluate.perplexity.0"):
        with pytest.raises(RecipeError, match=words) as caught:
            texts.load(named(sha256), "train", NOWHERE, store, field)
        assert caught.value.field == field.removesuffix(".name") + ".dataset"


def test_damaged_bytes_are_found_out(store: LocalStore) -> None:
    sha256 = upload(store, b"One.")
    store.uploads.path_of(sha256).write_bytes(b"Two.")
    with pytest.raises(Transient, match="damaged.*upload it again"):
        texts.load(named(sha256), "train", NOWHERE, store, "data.name")
    upload(store, b"One.")
    assert texts.load(named(sha256), "train", NOWHERE, store, "data.name").text == "One."


def test_uploaded_paragraphs_that_are_evaluated_are_not_trained_on(
    store: LocalStore, tmp_path: Path, recipe: Recipe, corpus: Path
) -> None:
    valid = (corpus / "valid.txt").read_bytes()
    both = upload(store, (corpus / "train.txt").read_bytes() + b"\n\n" + valid)
    own = {"name": "text", "path": None, "dataset": "dataset_1"}
    data = recipe.data.model_dump(mode="json") | own | {"dataset_sha256": both}
    measured = [{**own, "dataset_sha256": upload(store, valid), "label": "valid"}]
    bench = Workbench(changed(recipe, data=data, evaluate__perplexity=measured), store, tmp_path, NOWHERE)
    held_out = set(bench.texts["valid"].documents)
    assert held_out and not held_out & set(bench.training_text.documents)
    assert len(bench.training_text.documents) == 200
