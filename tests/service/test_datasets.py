"""Data sets: texts checked while they stream, kept by digest, held by jobs, and swept once nobody has them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from service import datasets, jobs
from service.artifacts.stores import open_store
from service.database.session import Database
from service.database.tables import Dataset, JobDataset
from service.domain.job import FINAL, Status
from service.errors import Conflict, InvalidRecipe, InvalidText, NoRoom, NotFound, StoreSilent, TooLarge
from service.incoming import IncomingText, storing
from service.settings import Settings
from tests.conftest import changed
from workers.contracts.recipe import Recipe
from workers.errors import StorageFull, Transient
from workers.local_store import LocalStore

WORDS = b"What every layer reads.\n"


@pytest.fixture
def store(settings: Settings) -> LocalStore:
    return open_store(settings.artifacts_url)


class InMemory:
    """A draft that keeps its bytes at hand."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, chunk: bytes) -> None:
        self.content += chunk

    def seal(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def keep(self) -> None:
        raise AssertionError("nobody asked for it")


def kept(database: Database, store: LocalStore, content: bytes = WORDS, name: str = "a.txt") -> Dataset:
    with store.uploads.drafting() as draft:
        incoming = IncomingText(draft, 2**20)
        incoming.take(content)
        checked = incoming.end()
        with database.writing() as session:
            made, _ = datasets.keep(session, checked, name)
    return made


def delete(database: Database, dataset_id: str) -> None:
    with database.writing() as session:
        datasets.delete(session, dataset_id)


def submit(database: Database, store: LocalStore, recipe: Recipe) -> str:
    with database.reading() as session:
        wanted = datasets.resolved(session, store.uploads, recipe)
    with database.writing() as session:
        return jobs.submit(session, recipe=wanted, metadata={}, labels={}, priority=0).id


def using(recipe: Recipe, made: Dataset) -> Recipe:
    return changed(recipe, data={"name": "text", "dataset": made.id})


@given(content=st.binary(max_size=40) | st.text(max_size=20).map(str.encode), cuts=st.lists(st.integers(0, 40)))
def test_pieces_are_judged_as_the_whole_is(content: bytes, cuts: list[int]) -> None:
    """However a body is cut, it is refused where Python's own decoder refuses it, and kept as it came."""
    places = sorted({0, len(content), *(min(cut, len(content)) for cut in cuts)})
    draft = InMemory()
    incoming = IncomingText(draft, 1000)

    def take_all() -> str:
        for start, end in zip(places, places[1:], strict=False):
            incoming.take(content[start:end])
        return incoming.end().sha256

    try:
        whole = content.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(InvalidText, match=f"at byte {error.start} "):
            take_all()
        return
    if not whole.strip():
        with pytest.raises(InvalidText, match="no text"):
            take_all()
        return
    assert take_all() == hashlib.sha256(content).hexdigest() and draft.content == content


def test_the_limit_holds_before_anything_is_written() -> None:
    draft = InMemory()
    incoming = IncomingText(draft, 10)
    incoming.expect(10)
    with pytest.raises(TooLarge, match="10 bytes"):
        incoming.expect(11)
    incoming.take(b"x" * 10)
    with pytest.raises(TooLarge):
        incoming.take(b"x")
    assert draft.content == b"x" * 10


@pytest.mark.parametrize(("error", "told"), [(StorageFull("/a/b"), NoRoom), (Transient("/a/b"), StoreSilent)])
def test_the_stores_troubles_are_told_without_its_folders(error: Exception, told: type[Exception]) -> None:
    with pytest.raises(told) as caught, storing():
        raise error
    assert "/a/b" not in str(caught.value)


def test_names_differ_bytes_are_shared(database: Database, store: LocalStore) -> None:
    one, again, other = kept(database, store), kept(database, store), kept(database, store, name="b.txt")
    assert one.id == again.id != other.id
    assert one.sha256 == other.sha256 == hashlib.sha256(WORDS).hexdigest()
    assert one.size_bytes == len(WORDS) and one.created_at > 0


def test_a_job_holds_its_data_sets_until_it_ends(database: Database, store: LocalStore, recipe: Recipe) -> None:
    made = kept(database, store)
    job_id = submit(database, store, using(recipe, made))
    for status in Status:
        with database.connection() as connection:
            connection.execute(text("UPDATE jobs SET status = :status"), {"status": status.value})
        if status not in FINAL:
            with pytest.raises(Conflict, match=job_id):
                delete(database, made.id)
    delete(database, made.id)
    with database.reading() as session:
        assert session.scalars(select(JobDataset.dataset_id)).all() == [made.id], "the job says still what it used"


def test_a_refusal_names_some_of_many_jobs(database: Database, store: LocalStore, recipe: Recipe) -> None:
    made = kept(database, store)
    ids = [submit(database, store, using(recipe, made)) for _ in range(5)]
    with pytest.raises(Conflict, match="and others") as caught:
        delete(database, made.id)
    assert sum(job_id in str(caught.value) for job_id in ids) == 3


def test_one_deleted_between_look_and_submission(database: Database, store: LocalStore, recipe: Recipe) -> None:
    made = kept(database, store)
    with database.reading() as session:
        wanted = datasets.resolved(session, store.uploads, using(recipe, made))
    delete(database, made.id)
    with pytest.raises(InvalidRecipe) as caught, database.writing() as session:
        jobs.submit(session, recipe=wanted, metadata={}, labels={}, priority=0)
    assert caught.value.field == "data.dataset"
    with database.reading() as session:
        assert jobs.listing(session, limit=1) == ([], False)


def test_every_data_set_of_a_recipe_is_resolved_and_held(database: Database, store: LocalStore, recipe: Recipe) -> None:
    one, two = kept(database, store), kept(database, store, b"other", "b")
    texts = [{"name": "text", "dataset": each.id, "label": each.name} for each in (one, two)]
    wanted = changed(using(recipe, one), evaluate__perplexity=["ptb", *texts])
    with database.reading() as session:
        found = datasets.resolved(session, store.uploads, wanted)
    assert found.data.dataset_sha256 == one.sha256
    assert [each.dataset_sha256 for each in found.evaluate.perplexity] == [None, one.sha256, two.sha256]
    assert Recipe.model_validate(found.model_dump(mode="json")) == found
    submit(database, store, wanted)
    for each in (one, two):
        with pytest.raises(Conflict):
            delete(database, each.id)


def test_a_recipe_without_data_sets_is_left_as_it_is(database: Database, store: LocalStore, recipe: Recipe) -> None:
    with database.reading() as session:
        assert datasets.resolved(session, store.uploads, recipe) == recipe


def test_the_sweep_takes_what_nobody_has(database: Database, store: LocalStore) -> None:
    shared, twin, alone = kept(database, store), kept(database, store, name="b"), kept(database, store, b"alone", "c")
    for each in (shared, alone):
        delete(database, each.id)
    datasets.sweep(database, store.uploads)
    assert store.uploads.holds(twin.sha256) and not store.uploads.holds(alone.sha256)
    with database.reading() as session:
        rows = {row.id: (row.deleted_at, row.bytes_removed_at) for row in session.scalars(select(Dataset))}
    assert rows[twin.id] == (None, None) and None not in (*rows[shared.id], *rows[alone.id])
    delete(database, twin.id)
    datasets.sweep(database, store.uploads)
    assert not store.uploads.holds(twin.sha256)


def test_what_could_not_be_removed_goes_with_the_next_sweep(
    database: Database, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kept(database, store)
    delete(database, made.id)

    def fail(_path: Path, **_options: bool) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", fail)
        datasets.sweep(database, store.uploads)
    assert store.uploads.holds(made.sha256)
    datasets.sweep(database, store.uploads)
    assert not store.uploads.holds(made.sha256)


def test_bytes_that_a_crash_left_without_a_row_go_once_they_are_old(database: Database, store: LocalStore) -> None:
    with store.uploads.drafting() as draft:
        draft.write(WORDS)
        sha256 = draft.seal()
        draft.keep()
    datasets.sweep(database, store.uploads)
    assert store.uploads.holds(sha256), "the row may be under way"
    live = kept(database, store, b"live")
    for digest in (sha256, live.sha256):
        os.utime(store.uploads.path_of(digest), (0, 0))
    datasets.sweep(database, store.uploads)
    assert store.uploads.digests(0.0) == [live.sha256]


def test_bytes_uploaded_again_before_the_sweep_stay(database: Database, store: LocalStore) -> None:
    first = kept(database, store)
    delete(database, first.id)
    again = kept(database, store)
    datasets.sweep(database, store.uploads)
    assert again.id != first.id and store.uploads.holds(again.sha256)


def test_unknown_and_deleted_ones_are_told_apart(database: Database, store: LocalStore) -> None:
    made = kept(database, store)
    delete(database, made.id)
    for dataset_id, words in ((made.id, "was deleted"), ("dataset_0", "there is no data set")):
        with pytest.raises(NotFound, match=words), database.reading() as session:
            datasets.get(session, dataset_id)
        with pytest.raises(NotFound, match=words):
            delete(database, dataset_id)


@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(steps=st.lists(st.tuples(st.sampled_from(["keep", "delete", "sweep"]), st.integers(0, 3)), max_size=12))
def test_a_live_data_set_always_has_its_bytes(
    database: Database, store: LocalStore, steps: list[tuple[str, int]]
) -> None:
    """Whatever is uploaded, deleted and swept in whatever order; after a sweep, nothing else is there."""
    for kind, number in steps:
        with database.reading() as session:
            live, _ = datasets.listing(session, limit=100)
        if kind == "keep":
            kept(database, store, b"text %d" % (number // 2), name=str(number))
        elif kind == "delete" and live:
            delete(database, live[number % len(live)].id)
        elif kind == "sweep":
            datasets.sweep(database, store.uploads)
        with database.reading() as session:
            live, _ = datasets.listing(session, limit=100)
        assert all(store.uploads.holds(each.sha256) for each in live)
    datasets.sweep(database, store.uploads)
    there = {file.name for file in (store.root / "uploads").rglob("*") if file.is_file()}
    with database.reading() as session:
        live, _ = datasets.listing(session, limit=100)
    assert there == {each.sha256 for each in live}
