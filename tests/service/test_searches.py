"""Searches from the check before they are queued to what they leave: screening, paths, data sets, lists, promotion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from service import comparisons, datasets, jobs, pace, queue, searches
from service.database import tables
from service.database.session import Database
from service.database.tables import Dataset, Job, JobDataset
from service.errors import Conflict, InvalidRecipe, NotFound
from service.settings import Settings
from tests.service.test_queue import apply, lease
from tests.service.torchfree_engines import finished
from tests.stored import SMALL_LLAMA, write_model
from workers.contracts.events import Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.contracts.search import Search
from workers.contracts.trials import TrialProposed

DATASET, OTHER = "dataset_1", "dataset_2"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model of width 32, another of 16, and a text."""
    write_model(tmp_path / "models" / "small")
    (tmp_path / "text.txt").write_text("Once upon a time.\n", "utf-8")
    (tmp_path / "other.txt").write_text("And then.\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def places(here: Path) -> Places:
    return Places(model_roots=[str(here)], data_roots=[str(here)])


def wanted(**changes: Any) -> Search:
    plain: dict[str, Any] = {
        "base": {
            "model": {"source": "models/small"},
            "method": {"kind": "dress", "ratio": 0.25},
            "data": {"name": "text", "path": "text.txt"},
            "evaluate": {"perplexity": [{"name": "text", "path": "./text.txt"}]},
        },
        "space": {"method.strength": "loguniform(1e-5, 1e-1)"},
        "objective": "perplexity.text min",
        "trials": 4,
    }
    return Search.model_validate(plain | changes)


def based(**sections: Any) -> dict[str, Any]:
    return wanted().base | sections


def submit(database: Database, search: Search, recipe: Recipe | None = None, **labels: str) -> str:
    recipe = recipe or search.recipe_at(next(search.probes())[1])
    with database.writing() as session:
        return searches.submit(session, search=search, recipe=recipe, metadata={"who": 1}, labels=labels, priority=3).id


def spec_of(database: Database, search_id: str) -> Search:
    with database.reading() as session:
        return Search.model_validate(searches.get(session, search_id)[1].spec)


def test_paths_become_absolute_wherever_they_stand(places: Places, here: Path) -> None:
    search, recipe = searches.screened(
        wanted(
            space={
                "model.source": {"choice": ["models/small", "some/model"]},
                "data.path": {"choice": ["text.txt", "other.txt"]},
                "evaluate.perplexity": {"choice": [[{"name": "text", "path": "other.txt"}, "ptb"], ["ptb"]]},
                "recover": {"choice": [{"kind": "none"}, {"kind": "full"}]},
            },
            first=[{"data.path": "other.txt"}],
            objective="parameters min",
        ),
        places,
    )
    text, other, model = str(here / "text.txt"), str(here / "other.txt"), str(here / "models" / "small")
    assert search.base["data"] == {"name": "text", "path": "text.txt"}, "the space says another in every trial"
    assert search.space["model.source"].choice == [model, "some/model"]
    assert search.space["data.path"].choice == [text, other]
    assert search.space["evaluate.perplexity"].choice == [[{"name": "text", "path": other}, "ptb"], ["ptb"]]
    assert search.space["recover"].choice == [{"kind": "none"}, {"kind": "full"}]
    assert search.first == [{"data.path": other}]
    assert (recipe.model.source, recipe.data.path) == (model, text)
    assert recipe == search.recipe_at(next(search.probes())[1])


def test_the_base_keeps_its_form(places: Places, here: Path) -> None:
    given = wanted()
    search, recipe = searches.screened(given, places)
    text = str(here / "text.txt")
    assert search.base == {
        "model": {"source": str(here / "models" / "small")},
        "method": {"kind": "dress", "ratio": 0.25},
        "data": {"name": "text", "path": text},
        "evaluate": {"perplexity": [{"name": "text", "path": text}]},
    }
    assert given.base["data"]["path"] == "text.txt", "the caller's own is left alone"
    assert recipe == search.recipe_at(next(search.probes())[1])
    assert searches.screened(search, places) == (search, recipe)
    assert Search.model_validate(search.model_dump(mode="json")) == search


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"base": based(model={"source": "./nowhere"})}, "base.model.source", "no folder"),
        ({"base": based(data={"name": "text", "path": "/etc/hostname"})}, "base.data.path", "DRESS_DATA_ROOTS"),
        ({"base": based(method={"kind": "dress", "ratio": 0.001})}, "base.method.ratio", "0.0625"),
        ({"space": {"model.source": {"choice": ["models/small", "./nowhere"]}}}, "space.model.source", "no folder"),
        ({"space": {"data.path": {"choice": ["text.txt", "none.txt"]}}}, "space.data.path", "none.txt"),
        ({"space": {"method.ratio": "uniform(0.001, 0.5)"}}, "space.method.ratio", "0.001: .*0.0625"),
        ({"space": {"method.ratio": "uniform(0.25, 0.999)"}}, "space.method.ratio", "0.999"),
        ({"space": {"seed": "randint(0, 9)", "method.ratio": "uniform(0.001, 0.5)"}}, "space.method.ratio", "0.0625"),
        ({"space": {"method.round_to": {"choice": [4, 30]}}}, "space.method.round_to", "multiple"),
        ({"space": {"data.sequence_length": {"choice": [64, 129]}}}, "space.data.sequence_length", "at most 128"),
        ({"space": {"method": {"choice": [{"kind": "dress", "ratio": 0.001}]}}}, "space.method", "0.0625"),
        ({"space": {"method.strenth": "uniform(0, 1)"}}, "space.method.strenth", "no such field"),
        ({"objective": "perplexity.ptb min"}, "objective.0", "not reported"),
        ({"first": [{"method.strength": "much"}]}, "first.0", "method"),
        ({"space": {"data.dataset": {"choice": [DATASET]}}, "base": based(data={"name": "text"})}, "space.data.dataset",
         "whole section"),
    ],
)  # fmt: skip
def test_trials_that_could_never_run_are_told_before(
    places: Places, changes: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidRecipe, match=words) as refused:
        searches.screened(wanted(**changes), places)
    assert refused.value.field == field


def test_first_points_are_looked_at_too(places: Places) -> None:
    with pytest.raises(InvalidRecipe, match=r"method\.ratio: .*0\.0625") as refused:
        searches.screened(wanted(space={"method.ratio": "uniform(0.25, 0.5)"}, first=[{"method.ratio": 0.001}]), places)
    assert refused.value.field == "first.0"


def test_values_that_go_with_others_only_are_no_mistake(here: Path, places: Places) -> None:
    """256 tokens are too many for one of the models, and are meant for the other."""
    config = {**SMALL_LLAMA, "max_position_embeddings": 512}
    write_model(here / "models" / "long", config)
    space = {
        "model.source": {"choice": ["models/small", "models/long"]},
        "data.sequence_length": {"choice": [64, 256]},
    }
    with pytest.raises(InvalidRecipe, match="at most 128"):
        searches.screened(wanted(space=space), places)  # whichever comes first is tried with the first of the others
    turned = {**space, "model.source": {"choice": ["models/long", "models/small"]}}
    turned["data.sequence_length"] = {"choice": [256, 64]}
    search, _ = searches.screened(wanted(space=turned), places)
    assert search.space["data.sequence_length"].choice == [256, 64]


def test_each_recipe_is_looked_at_once(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Recipe] = []
    real = searches.screening.screened
    monkeypatch.setattr(searches.screening, "screened", lambda *given: looked.append(given[0]) or real(*given))
    space = {"seed": "randint(0, 9)", "recover.rank": {"choice": [2, 4, 8]}, "method.ratio": {"choice": [0.25, 0.5]}}
    searches.screened(wanted(space=space), places)
    assert [recipe.method.ratio for recipe in looked] == [0.25, 0.5]


def test_a_submitted_search_is_whole(database: Database, places: Places) -> None:
    search, recipe = searches.screened(wanted(concurrency=3, base=based(resources={"cpus": 2})), places)
    search_id = submit(database, search, recipe, team="blue")
    with database.reading() as session:
        job, row = searches.get(session, search_id)
        assert session.scalars(select(tables.Trial)).all() == []
    assert search_id.startswith("search_") and (job.kind, job.status, job.slots, job.priority) == (
        "search",
        "queued",
        3,
        3,
    )
    assert (job.labels, job.metadata_, job.last_event) == ({"team": "blue"}, {"who": 1}, 1)
    assert Recipe.model_validate(job.recipe) == recipe and job.recipe["resources"]["cpus"] == 2
    assert (Search.model_validate(row.spec), row.best, row.frontier) == (search, None, [])


def test_a_search_books_no_more_than_its_trials(database: Database) -> None:
    search_id = submit(database, wanted(concurrency=9, trials=2))
    with database.reading() as session:
        assert searches.get(session, search_id)[0].slots == 2


def test_searches_and_jobs_stay_apart(database: Database, recipe: Recipe, settings: Settings) -> None:
    search_id = submit(database, wanted(), team="blue")
    with database.writing() as session:
        job_id = jobs.submit(session, recipe=recipe, metadata={}, labels={"team": "blue"}, priority=0).id
    with database.reading() as session:
        assert [job.id for job in jobs.listing(session, limit=9, label="team=blue")[0]] == [job_id]
        assert [job.id for job, _ in searches.listing(session, limit=9, label="team=blue")[0]] == [search_id]
        assert comparisons.chosen(session, [search_id], ["team"])[1] == [search_id]
        for known, other in ((jobs, search_id), (searches, job_id)):
            with pytest.raises(NotFound):
                known.get(session, other)
            with pytest.raises(NotFound):
                known.listing(session, limit=1, after=other)
            for verb in ("pause", "resume"):
                with pytest.raises(NotFound):
                    getattr(known, verb)(session, other)
        with pytest.raises(NotFound):
            jobs.cancel(session, search_id)
        with pytest.raises(NotFound):
            searches.stop(session, job_id)
        assert [attempt.id for attempt in jobs.attempts(session, search_id)] == []
        pace.of_device(session, "cpu", settings)


def test_lists_are_told_in_pages(database: Database) -> None:
    ids = [submit(database, wanted(), number=str(number)) for number in range(3)]
    with database.writing() as session:
        for place, search_id in enumerate(ids):
            session.execute(update(Job).where(Job.id == search_id).values(created_at=100.0 + place))
        searches.stop(session, ids[1])
    with database.reading() as session:
        first, has_more = searches.listing(session, limit=2)
        assert [(job.id, row.id) for job, row in first] == [(ids[2], ids[2]), (ids[1], ids[1])] and has_more
        rest, has_more = searches.listing(session, limit=2, after=ids[1])
        assert [job.id for job, _ in rest] == [ids[0]] and not has_more
        assert [job.id for job, _ in searches.listing(session, limit=9, status="cancelled")[0]] == [ids[1]]
        assert [job.id for job, _ in searches.listing(session, limit=9, created_after=101.0)[0]] == [ids[2]]
        assert searches.listing(session, limit=9, label="number=7") == ([], False)


def test_trials_are_told_in_pages_by_number(database: Database) -> None:
    search_id = submit(database, wanted())
    held = lease(database, search_id)
    apply(database, held, *(TrialProposed(trial=number, point={}) for number in (2, 1, 3)))
    with database.reading() as session:
        found, has_more = searches.trials(session, search_id, limit=2)
        assert [row.number for row in found] == [1, 2] and has_more
        found, has_more = searches.trials(session, search_id, limit=2, after=2)
        assert [row.number for row in found] == [3] and not has_more
        assert searches.trial(session, search_id, 3).status == "running"
        for ask in (
            lambda: searches.trial(session, search_id, 4),
            lambda: searches.trial(session, "search_none", 1),
            lambda: searches.trials(session, "search_none", limit=1),
            lambda: searches.promoted(session, search_id, 4),
        ):
            with pytest.raises(NotFound):
                ask()


def test_a_trial_becomes_a_job(database: Database, places: Places) -> None:
    search, recipe = searches.screened(wanted(), places)
    search_id = submit(database, search, recipe)
    points = [{"method.strength": 0.5}, {"method.strength": "much"}]
    apply(
        database,
        lease(database, search_id),
        *(TrialProposed(trial=number, point=point) for number, point in enumerate(points, start=1)),
    )
    with database.writing() as session:
        promoted = searches.promoted(session, search_id, 1)
        assert promoted == search.recipe_at(points[0]) and promoted.data.path == recipe.data.path
        job = jobs.submit(session, recipe=promoted, metadata={}, labels={}, priority=0)
        assert (job.kind, job.slots) == ("job", 1)
        with pytest.raises(InvalidRecipe):
            searches.promoted(session, search_id, 2)


def test_an_ended_search_is_not_stopped(database: Database) -> None:
    search_id = submit(database, wanted())
    apply(database, lease(database, search_id), Succeeded(results=Results()))
    with pytest.raises(Conflict, match="search search_.* has already succeeded"), database.writing() as session:
        searches.stop(session, search_id)


def with_datasets(database: Database) -> None:
    with database.writing() as session:
        session.add_all(Dataset(id=id, name=id, sha256=id[-1] * 64, size_bytes=1) for id in (DATASET, OTHER))


def test_data_sets_are_told_by_digest_and_held(database: Database) -> None:
    with_datasets(database)
    search = wanted(
        base=based(data={"name": "text", "dataset": DATASET}, evaluate={"perplexity": ["ptb"]}),
        space={
            "evaluate.perplexity": {"choice": [["ptb"], ["ptb", {"name": "text", "dataset": OTHER}]]},
            "seed": "randint(0, 9)",
        },
        first=[{"evaluate.perplexity": ["ptb", {"name": "text", "dataset": DATASET}]}],
        objective="perplexity.ptb min",
    )
    search_id = submit(database, search)
    spec = spec_of(database, search_id)
    assert spec.base["data"] == {"name": "text", "dataset": DATASET, "dataset_sha256": "1" * 64}
    other = {"name": "text", "dataset": OTHER, "dataset_sha256": "2" * 64}
    assert spec.space["evaluate.perplexity"].choice == [["ptb"], ["ptb", other]]
    assert spec.first[0]["evaluate.perplexity"] == ["ptb", spec.base["data"]]
    with database.writing() as session:
        held = select(JobDataset.dataset_id).where(JobDataset.job_id == search_id)
        assert sorted(session.scalars(held)) == [DATASET, OTHER]
        with pytest.raises(Conflict, match=search_id):
            datasets.delete(session, OTHER)
        searches.stop(session, search_id)
        datasets.delete(session, OTHER)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"base": based(data={"name": "text", "dataset": "dataset_9"})}, "base.data.dataset", "no data set dataset_9"),
        ({"space": {"data": {"choice": [{"name": "ptb"}, {"name": "text", "dataset": "dataset_9"}]}}}, "space.data",
         "no data set dataset_9"),
        ({"base": based(data={"name": "text", "dataset": DATASET, "dataset_sha256": "9" * 64})}, "base.data.dataset",
         "leave out dataset_sha256"),
    ],
)  # fmt: skip
def test_data_sets_that_are_not_there_are_told(
    database: Database, changes: dict[str, Any], field: str, words: str
) -> None:
    with_datasets(database)
    with pytest.raises(InvalidRecipe, match=words) as refused:
        submit(database, wanted(**changes))
    assert refused.value.field == field
    with database.reading() as session:
        assert searches.listing(session, limit=1) == ([], False), "nothing was queued"


def test_what_was_kept_stays_when_a_search_is_stopped(database: Database) -> None:
    search_id = submit(database, wanted())
    held = lease(database, search_id)
    apply(database, held, TrialProposed(trial=1, point={}), finished(1, 3))
    with database.writing() as session:
        searches.stop(session, search_id)
        queue.finish_stopping(session, held)
    with database.reading() as session:
        job, row = searches.get(session, search_id)
        assert (job.status, row.best, row.frontier) == ("cancelled", 1, [1])
        assert searches.tally(session, search_id).counts == {"succeeded": 1}
