"""Submission's checks, listings, and the small rooms beside the queue: settings, keys, idempotency, stores, events."""

import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from service import events, idempotency, jobs, keys
from service.artifacts.stores import open_store
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import ApiKey, IdempotencyKey, Job
from service.errors import IdempotencyMismatch, InvalidRecipe, Misconfigured, NotFound
from service.screening import screened
from service.settings import Settings
from tests.stored import SMALL_LLAMA, write_model
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models" / "small")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(model_roots=[str(tmp_path)], data_roots=[str(tmp_path)])


def written(recipe: Recipe, **changes: dict[str, Any]) -> Recipe:
    plain = recipe.model_dump(mode="json")
    for part, fields in changes.items():
        plain[part] |= fields
    return Recipe.model_validate(plain)


def submit(database: Database, recipe: Recipe, places: Places, **labels: str) -> Job:
    with database.writing() as session:
        recipe = screened(recipe, places)
        return jobs.submit(session, recipe=recipe, metadata={"who": 1}, labels=labels, priority=3)


def test_a_submitted_job_is_whole(database: Database, recipe: Recipe, places: Places, model: Path) -> None:
    job = submit(database, written(recipe, model={"source": str(model)}), places, team="blue")
    assert (job.status, job.priority, job.metadata_, job.labels) == ("queued", 3, {"who": 1}, {"team": "blue"})
    assert job.created_at > 0 and job.version >= 1


def test_paths_become_absolute(
    database: Database, recipe: Recipe, places: Places, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [{"name": "text", "path": "text.txt"}]
    relative = written(
        recipe, model={"source": "models/small"}, data={"path": "./text.txt"}, evaluate={"perplexity": texts}
    )
    stored = Recipe.model_validate(submit(database, relative, places).recipe)
    assert stored.model.source == str(model)
    assert stored.data.path == stored.evaluate.perplexity[0].path == str(tmp_path / "text.txt")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"model": {"source": "./nowhere"}}, "model.source", "no folder"),
        ({"model": {"source": "/etc"}}, "model.source", "DRESS_MODEL_ROOTS"),
        ({"data": {"path": "/etc/hostname"}}, "data.path", "DRESS_DATA_ROOTS"),
        ({"evaluate": {"perplexity": [{"name": "text", "path": "x"}]}}, "evaluate.perplexity.0.path", "no file"),
        ({"data": {"sequence_length": 129}}, "data.sequence_length", "at most 128"),
        ({"evaluate": {"sequence_length": 129}}, "evaluate.sequence_length", "at most 128"),
        ({"method": {"ratio": 0.9, "round_to": 32}}, "method.ratio", "0.5"),
        ({"method": {"ratio": 0.001}}, "method.ratio", "0.0625"),
        ({"method": {"round_to": 6}}, "method.round_to", "multiple of 4"),
    ],
)
def test_what_could_never_run_is_refused(
    database: Database,
    recipe: Recipe,
    places: Places,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, Any],
    field: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRecipe, match=words) as refused:
        submit(database, written(recipe, **{"model": {"source": str(model)}, **changes}), places)
    assert refused.value.field == field
    with database.reading() as session:
        assert jobs.listing(session, limit=10) == ([], False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**SMALL_LLAMA, "model_type": "mamba"}, "'mamba' is not supported"),
        ({**SMALL_LLAMA, "model_type": "gpt2"}, "'gpt2' is not supported"),
        ({**SMALL_LLAMA, "model_type": "mixtral"}, "'mixtral' is not supported"),
        ({**SMALL_LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4}}, "weights are quantized"),
        ([], "object"),
        ({}, "supported"),
        ({"model_type": "llama"}, "config.json lacks '[a-z_]+'"),
        ({**SMALL_LLAMA, "num_attention_heads": 0}, "describe no model"),
        ({**SMALL_LLAMA, "hidden_size": "wide"}, "describe no model"),
    ],
)
def test_configs_that_describe_no_known_model_are_refused(
    database: Database, recipe: Recipe, places: Places, tmp_path: Path, config: Any, words: str
) -> None:
    source = str(write_model(tmp_path / "other", config, shapes={"w": (2,)}))
    with pytest.raises(InvalidRecipe, match=words) as refused:
        submit(database, written(recipe, model={"source": source}), places)
    assert refused.value.field == "model.source"


def test_damaged_weights_are_refused(database: Database, recipe: Recipe, places: Places, model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidRecipe, match="no whole safetensors file") as refused:
        submit(database, written(recipe, model={"source": str(model)}), places)
    assert refused.value.field == "model.source"


def test_listing_pages_newest_first_and_filters(database: Database, recipe: Recipe, places: Places) -> None:
    ids = [submit(database, recipe, places, team=team).id for team in ("red", "blue", "red")]
    with database.writing() as session:
        for place, job_id in enumerate(ids):
            session.execute(update(Job).where(Job.id == job_id).values(created_at=1000.0 + place))
        jobs.cancel(session, ids[0])
    with database.reading() as session:

        def listed(**filters: Any) -> list[str]:
            return [job.id for job in jobs.listing(session, limit=10, **filters)[0]]

        first, more = jobs.listing(session, limit=2)
        assert ([job.id for job in first], more) == ([ids[2], ids[1]], True)
        assert listed(after=ids[1]) == [ids[0]]
        assert listed(status="cancelled") == [ids[0]]
        assert listed(label="team=red") == [ids[2], ids[0]]
        assert listed(label="team") == [ids[2], ids[1], ids[0]]
        assert listed(label="team=") == [] and listed(label="other") == []
        assert listed(created_after=1001.0) == [ids[2]]
        with pytest.raises(NotFound):
            jobs.listing(session, limit=1, after="job_none")
        with pytest.raises(NotFound):
            jobs.attempts(session, "job_none")


def test_events_and_the_versions_they_make(database: Database, recipe: Recipe, places: Places) -> None:
    first, second = (submit(database, recipe, places).id for _ in range(2))
    with database.writing() as session:
        before = events.versions(session, [first, second, "job_none"])
        assert events.append(session, jobs.get(session, second), "notice", {"message": "x"}).number == 2
        assert events.versions(session, [second, first]) == {first: before[first], second: before[second] + 1}
        assert [event.number for event in events.listing(session, second, after=1, limit=9)] == [2]
        assert len(events.listing(session, second, after=0, limit=1)) == 1
        assert events.listing(session, second, after=2**53, limit=1) == []


def test_one_idempotency_key_one_answer(database: Database) -> None:
    with database.writing() as session:
        assert idempotency.replay(session, "key", "a" * 64) is None
        idempotency.remember(session, "key", "a" * 64, "the answer")
    with database.reading() as session:
        assert idempotency.replay(session, "key", "a" * 64) == "the answer"
        with pytest.raises(IdempotencyMismatch):
            idempotency.replay(session, "key", "b" * 64)


def test_answers_are_kept_for_a_day_and_then_forgotten(database: Database) -> None:
    with database.writing() as session:
        for key, hours in (("yesterday", 25), ("long ago", 49)):
            idempotency.remember(session, key, "a" * 64, "")
            age = database_now() - hours * 3600.0
            session.execute(update(IdempotencyKey).where(IdempotencyKey.key == key).values(created_at=age))
        idempotency.remember(session, "now", "a" * 64, "")
        assert set(session.scalars(select(IdempotencyKey.key))) == {"yesterday", "now"}


def test_the_local_key_is_made_once_and_never_stored(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "new" / "api-key"
    with database.writing() as session:
        secret = keys.ensure_local_key(session, file)
        assert keys.ensure_local_key(session, file) == secret == file.read_text().strip()
        assert secret.startswith("dress_") and len(secret) > 45
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and list(file.parent.iterdir()) == [file]
        key = keys.authenticate(session, secret)
        assert key is not None and secret not in (key.sha256, key.name)
        assert keys.authenticate(session, secret + "x") is None
        key.revoked_at = 1.0
        session.flush()
        assert keys.authenticate(session, secret) is None


def test_a_key_file_is_made_known_to_a_new_database(database: Database, tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("dress_secret\n")
    with database.writing() as session:
        assert keys.ensure_local_key(session, tmp_path / "api-key") == "dress_secret"
        assert keys.authenticate(session, "dress_secret") is not None
        assert len(session.scalars(select(ApiKey)).all()) == 1


def test_stores_are_opened_by_scheme(tmp_path: Path) -> None:
    assert open_store(f"file://{tmp_path}/with%20space").root == tmp_path / "with space"
    for url in ("ftp://bucket", "/a/folder", "file://host/folder"):
        with pytest.raises(Misconfigured, match="file://"):
            open_store(url)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRESS_STATE_DIR", str(tmp_path))
    for name in ("DRESS_DATABASE_URL", "DRESS_ARTIFACTS_URL", "DRESS_RAY_ADDRESS", "DRESS_MODEL_ROOTS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DRESS_DATA_ROOTS", "/a:/b")
    settings = Settings.from_environment()
    assert settings.database_url == f"sqlite:///{tmp_path}/dress.sqlite3"
    assert settings.artifacts_url == f"file://{tmp_path}/artifacts"
    assert settings.ray_address is None and settings.api_key_file == tmp_path / "api-key"
    places = settings.places()
    assert places.model_roots == [str(Path.cwd()), str(tmp_path)] and places.data_roots == ["/a", "/b"]
    monkeypatch.setenv("DRESS_RAY_ADDRESS", "10.0.0.1:6379")
    assert Settings.from_environment().places().model_roots == []
