"""A migrated database, a recipe and one local Ray for the service's tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.database.schema import upgrade
from service.database.session import Database
from service.settings import Settings
from tests.conftest import run_on_both
from tests.service.bench import Bench
from workers.contracts.recipe import Recipe
from workers.contracts.search import Search


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever needs a database must pass on both; on a Ray cluster once is enough."""
    if "ray_runner" not in metafunc.fixturenames:
        run_on_both(metafunc)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file at the newest schema, to be copied."""
    file = tmp_path_factory.mktemp("schema") / "dress.sqlite3"
    database = Database(f"sqlite:///{file}")
    upgrade(database)
    database.dispose()
    return file


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Settings:
    for name in [name for name in os.environ if name.startswith("DRESS_")]:
        monkeypatch.delenv(name)
    # Not a parameter: most tests of settings alone have nothing to do with databases.
    backend = request.getfixturevalue("backend") if "backend" in request.fixturenames else "sqlite"
    return Settings(
        state_dir=tmp_path / "state",
        database_url=request.getfixturevalue("postgresql_url") if backend == "postgresql" else "",
        poll_seconds=0.02,
        retry_seconds=0.05,
        reap_seconds=0.2,
        heartbeat_seconds=0.3,
    )


@pytest.fixture
def database(settings: Settings, migrated: Path, backend: str) -> Iterator[Database]:
    settings.state_dir.mkdir()
    if backend == "sqlite":
        shutil.copy(migrated, settings.state_dir / "dress.sqlite3")
    database = Database(settings.database_url)
    yield database
    database.dispose()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Its text lies in a folder of the test's own, through which pipelines are steered."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time.\n", "utf-8")
    return Recipe.model_validate(
        {
            "model": {"source": "some/model"},
            "method": {"kind": "dress", "ratio": 0.25},
            "data": {"name": "text", "path": str(text), "samples": 8, "sequence_length": 16},
            "evaluate": {"perplexity": []},
        }
    )


@pytest.fixture
def search(recipe: Recipe) -> Search:
    """Over λ, for `torchfree_engines`."""
    return Search.model_validate(
        {
            "base": recipe.model_dump(mode="json"),
            "space": {"method.strength": "loguniform(1e-5, 1e-1)"},
            "objective": "parameters min",
            "algorithm": "random",
            "trials": 3,
        }
    )


@pytest.fixture
def bench(database: Database, settings: Settings, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(database, settings, tmp_path)
    yield bench
    (tmp_path / "go").touch()
    for attempt_id in bench.runner.attempts():
        bench.runner.stop(attempt_id)


@pytest.fixture(scope="session")
def ray_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A runner on a Ray of this test session's own."""
    from service.dispatch import local_ray

    state_dir = tmp_path_factory.mktemp("ray")
    before = dict(os.environ)
    local_ray.prepare_environment(state_dir)
    from service.dispatch.ray_runner import RayRunner

    try:
        runner = RayRunner(state_dir)
        yield runner
        runner.close()
    finally:
        local_ray.stop(state_dir)
        os.environ.clear()
        os.environ.update(before)
