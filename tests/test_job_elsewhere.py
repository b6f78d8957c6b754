"""The whole service with its artifacts in an object store: no folder is shared, and what is lost is a worker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import changed
from tests.object_server import BUCKET, ObjectServer
from tests.test_one_job import Service, running, types
from workers import pipeline
from workers.contracts.events import StageFinished, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.object_store.store import ObjectStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def url() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, started_object_server: ObjectServer, url: str
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("elsewhere")
    places = {"DRESS_ARTIFACTS_URL": url, "DRESS_CACHE_DIR": str(folder / "cache")}
    with running(folder / "state", **started_object_server.environment, **places) as service:
        yield service


def test_a_killed_worker_goes_on_and_its_stages_are_found_on_another_node(
    service: Service, recipe: Recipe, object_server: ObjectServer, url: str, tmp_path: Path
) -> None:
    wanted = changed(
        recipe, method__training__epochs=8, resources__checkpoint_every_steps=20, recover={"kind": "none"}, seed=7
    )
    job = service.client.jobs.submit(wanted)
    told = service.followed(job, {("checkpoint_saved", 2): lambda: service.kill_9("worker")})
    done = service.client.jobs.get(job.id)
    assert (done.status, done.attempts) == ("succeeded", 2), done.error
    (loaded,) = types(told, "checkpoint_loaded")
    assert loaded.body["step"] >= 40
    assert not (service.state / "artifacts").exists(), "no folder of this machine's holds them"
    service.client.jobs.download(job.id, tmp_path / "home")
    assert (tmp_path / "home" / "model" / "model.safetensors").stat().st_size > 0
    # Another node knows the URL and has a cache of its own; see the fixture `object_server`.
    events = list(_again(wanted, url, tmp_path))
    assert all(event.reused for event in events if isinstance(event, StageFinished))
    last = events[-1]
    assert isinstance(last, Succeeded) and last.results.pruned is not None
    assert last.results.pruned.weights_digest == done.results["pruned"]["weights_digest"]


def _again(recipe: Recipe, url: str, folder: Path) -> Iterator[object]:
    (folder / "workspace").mkdir()
    return pipeline.run(recipe, ObjectStore(url), folder / "workspace", Places(), owner="another node")
