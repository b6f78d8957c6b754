"""HTTP in, artifact out: the whole service as processes, and what it promises when parts of it are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from api.client import Client
from api.schemas import Event, Job
from tests.conftest import changed, run_here
from tests.processes import part, serving, until
from workers.contracts.recipe import Recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@dataclass
class Service:
    """A running `dress up` and a client of it."""

    state: Path
    process: subprocess.Popen[bytes]
    client: Client

    def workers(self) -> list[psutil.Process]:
        """The processes that compute."""
        return [each for each in serving(self.state) if (each.cmdline() or [""])[0].startswith("ray::AttemptActor")]

    def kill_9(self, name: str) -> None:
        """End a part at once: `api`, `service.dispatch`, or `worker` for the one process that computes."""
        (victim,) = self.workers() if name == "worker" else [part(self.state, name)]
        assert victim is not None
        victim.send_signal(signal.SIGKILL)
        victim.wait(10)

    def followed(self, job: Job, do: dict[tuple[str, int], Callable[[], None]]) -> list[Event]:
        """The job's events to its end; at the n-th event of a type, do something."""
        told: list[Event] = []
        for event in self.client.jobs.events(job.id, follow=True):
            told.append(event)
            act = do.pop((event.type, sum(other.type == event.type for other in told)), None)
            if act:
                act()
        assert not do, "an event that was waited for never came"
        return told


@contextmanager
def running(state: Path, **changes: str) -> Iterator[Service]:
    """`dress up` on this state folder while the block runs; at its end nothing of it may be left."""
    environment = {**os.environ, "DRESS_MODEL_ROOTS": "/", "DRESS_DATA_ROOTS": "/", "NO_COLOR": "1", **changes}
    command = [Path(sys.executable).with_name("dress"), "up", "--port", "0", "--state", state]
    process = subprocess.Popen(command, env=environment)
    try:
        until(lambda: (state / "url").exists() or process.poll() is not None, 60)
        with Client((state / "url").read_text().strip(), (state / "api-key").read_text().strip()) as client:
            yield Service(state, process, client)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert serving(state) == []


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("one-job") / "state") as service:
        yield service


def long_recipe(recipe: Recipe, seed: int) -> Recipe:
    """Enough steps to be killed in the middle of."""
    return changed(
        recipe, method__training__epochs=30, resources__checkpoint_every_steps=20, recover={"kind": "none"}, seed=seed
    )


def types(told: list[Event], kind: str) -> list[Event]:
    return [event for event in told if event.type == kind]


def test_a_job_comes_back_as_a_model(service: Service, recipe: Recipe, tmp_path: Path) -> None:
    job = service.client.jobs.submit(recipe, labels={"kind": "plain"})
    told = service.followed(job, {})
    done = service.client.jobs.get(job.id)
    assert done.status == "succeeded", done.error
    assert [event.number for event in told] == list(range(1, done.last_event + 1))
    service.client.jobs.download(job.id, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (model.num_parameters(), model.config.hidden_size) == (done.results["recovered"]["parameters"], 24)
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_a_killed_worker_costs_nothing_but_time(service: Service, recipe: Recipe, tmp_path: Path) -> None:
    wanted = run_here(long_recipe(recipe, seed=1), tmp_path).pruned
    job = service.client.jobs.submit(long_recipe(recipe, seed=1))
    told = service.followed(job, {("checkpoint_saved", 2): lambda: service.kill_9("worker")})
    done = service.client.jobs.get(job.id)
    assert (done.status, done.attempts) == ("succeeded", 2)
    (loaded,) = types(told, "checkpoint_loaded")
    assert loaded.body["step"] >= 40
    assert [attempt.outcome for attempt in service.client.jobs.attempts(job.id)] == ["lost", "succeeded"]
    assert wanted is not None
    assert done.results["pruned"]["weights_digest"] == wanted.weights_digest


def test_api_and_dispatcher_may_die_while_the_attempt_goes_on(service: Service, recipe: Recipe) -> None:
    job = service.client.jobs.submit(long_recipe(recipe, seed=2))
    told = service.followed(
        job,
        {
            ("progress", 2): lambda: service.kill_9("api"),
            ("progress", 10): lambda: service.kill_9("service.dispatch"),
        },
    )
    done = service.client.jobs.get(job.id)
    assert (done.status, done.attempts) == ("succeeded", 1), done.error
    assert [event.number for event in told] == list(range(1, done.last_event + 1))
    assert len(types(told, "attempt_adopted")) == 1
    steps = [event.body["step"] for event in types(told, "progress") if event.body["stage"] == "regularize"]
    assert steps == sorted(set(steps)), "a step was told twice or out of order"


def test_a_running_job_is_cancelled_and_its_worker_ends(service: Service, recipe: Recipe) -> None:
    job = service.client.jobs.submit(long_recipe(recipe, seed=3))
    service.followed(job, {("checkpoint_saved", 1): lambda: service.client.jobs.cancel(job.id) and None})
    assert service.client.jobs.get(job.id).status == "cancelled"
    until(lambda: not service.workers())
