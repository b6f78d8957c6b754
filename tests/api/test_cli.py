"""The `dress` commands against a real server: what they print where, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from api.cli import app
from api.recipes import absolute
from tests.api.conftest import Deployment
from tests.processes import DEADLINE_SECONDS, interruptible, until
from workers.contracts.events import Measured, Progress, StageFinished, StageStarted, Succeeded
from workers.contracts.results import Measurement, Results


@pytest.fixture
def recipe(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A recipe file beside its model, and a command line that finds the server through the state folder."""
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    monkeypatch.delenv("DRESS_URL", raising=False)
    monkeypatch.delenv("DRESS_API_KEY", raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**deployment.recipe(), "model": {"source": "./tiny"}}), "utf-8")
    return file


def _dress(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _work(deployment: Deployment, job_id: str) -> None:
    """Play an attempt with some progress."""
    held = deployment.lease(job_id)
    dense = Measurement(parameters=1000, bytes=4000, perplexity={"wikitext2": 5.25})
    pruned = Measurement(parameters=750, bytes=3000, perplexity={"wikitext2": 7.5})
    deployment.report(
        held,
        1,
        StageStarted(stage="regularize", key="k", index=0, count=1),
        Progress(stage="regularize", step=1, steps=2, metrics={"loss": 2.5}),
        StageFinished(stage="regularize", key="k", seconds=0.5, reused=False),
        Measured(subject="dense", measurement=dense),
        Succeeded(results=Results(dense=dense, pruned=pruned)),
    )


def test_submit_prints_the_id(recipe: Path, deployment: Deployment) -> None:
    done = _dress("submit", recipe, "--label", "a=b", "--priority", 2)
    assert done.exit_code == 0 and done.stdout.startswith("job_")
    job = json.loads(_dress("show", done.stdout.strip(), "--json").stdout)
    assert (job["labels"], job["priority"]) == ({"a": "b"}, 2)
    assert job["recipe"]["model"]["source"] == str(deployment.model), "relative paths are made absolute"


def test_submit_wait_json_prints_one_object(recipe: Path, deployment: Deployment) -> None:
    def work() -> None:
        with deployment.database.reading() as session:
            from service import jobs

            found, _ = jobs.listing(session, limit=1)
        if found:
            _work(deployment, found[0].id)
            done.set()

    done = threading.Event()
    worker = threading.Thread(target=lambda: until(lambda: work() or done.is_set()))
    worker.start()
    result = _dress("submit", recipe, "--wait", "--json")
    worker.join()
    assert result.exit_code == 0, result.stderr
    job = json.loads(result.stdout)
    assert job["status"] == "succeeded" and job["results"]["pruned"]["perplexity"] == {"wikitext2": 7.5}
    for words in ("[1/1] regularize", "0.5 s", "job_succeeded", "dense", "pruned", "perplexity wikitext2", "750"):
        assert words in result.stderr
    assert "recovered" not in result.stderr


def test_submit_wait_fails_with_the_job(recipe: Path, deployment: Deployment) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "submit", str(recipe), "--wait"], stdout=subprocess.PIPE, text=True
    )
    job_id = until(lambda: json.loads(_dress("jobs", "--json").stdout)["data"])[0]["id"]
    assert _dress("cancel", job_id).stdout == f"{job_id} cancelled\n"
    told, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1 and "cancelled" in told


def test_interrupting_the_wait_leaves_the_job(recipe: Path) -> None:
    with subprocess.Popen(
        interruptible("api.cli", "submit", str(recipe), "--wait"), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "job_queued" in line)
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()  # of one that has ended nothing is left to kill
    assert process.returncode == 130
    assert "The job goes on" in line + rest and "Traceback" not in line + rest
    assert json.loads(_dress("jobs", "--json").stdout)["data"][0]["status"] == "queued"


def test_jobs_show_events_and_cancel_for_people(recipe: Path, deployment: Deployment) -> None:
    job_id = _dress("submit", recipe).stdout.strip()
    listed = _dress("jobs").stdout
    assert job_id in listed and "queued" in listed and "dress 0.25" in listed
    _work(deployment, job_id)
    shown = _dress("show", job_id).stdout
    assert "succeeded" in shown and "perplexity wikitext2" in shown and "5.25" in shown
    told = _dress("events", job_id, "-f").stdout.splitlines()
    assert "job_queued" in told[0] and "job_succeeded" in told[-1]
    assert len(json.loads(_dress("events", job_id, "--json").stdout)["data"]) == len(told)
    later = _dress("events", job_id, "-f", "--json", "--after", 2).stdout.splitlines()
    assert [json.loads(line)["number"] for line in later] == list(range(3, len(told) + 1))
    refused = _dress("cancel", job_id)
    assert refused.exit_code == 1 and "already succeeded" in refused.stderr


def test_download(recipe: Path, deployment: Deployment, tmp_path: Path) -> None:
    job_id = _dress("submit", recipe).stdout.strip()
    early = _dress("download", job_id, tmp_path / "out")
    assert early.exit_code == 1 and "has left no files yet" in early.stderr
    deployment.succeed(job_id, {"model/config.json": b"{}"})
    assert _dress("download", job_id, tmp_path / "out").exit_code == 0
    assert (tmp_path / "out/model/config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {source: ./tiny}\nmethod: {kind: dress, ratio: 2}\n", "method.ratio: 2 is out of range"),
        ("model: {source: ./nothing}\nmethod: {kind: dress, ratio: 0.5}\n", "model.source: there is no folder"),
        ("model: {source: ./tiny}\nmethod: {kind: dress, ratio: 0.5}\nevaluate: {perplexity: [x]}", "perplexity[0]:"),
        ("a: [", "is no YAML"),
        ("just words", "holds no recipe"),
    ],
)  # fmt: skip
def test_bad_recipes_are_explained(recipe: Path, text: str, words: str) -> None:
    recipe.write_text(text, "utf-8")
    result = _dress("submit", recipe, "--json")
    assert result.exit_code == 1 and result.stdout == ""
    assert words in result.stderr and "Traceback" not in result.stderr


def test_what_goes_wrong_without_a_server(
    recipe: Path, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "cannot be read" in _dress("submit", tmp_path / "none.yaml").stderr
    assert _dress("submit", recipe, "--label", "x").exit_code == 2
    assert "there is no job" in _dress("show", "job_0").stderr
    monkeypatch.setenv("DRESS_API_KEY", "wrong")
    assert "not known" in _dress("jobs").stderr
    monkeypatch.delenv("DRESS_API_KEY")
    monkeypatch.setenv("DRESS_STATE_DIR", str(tmp_path / "elsewhere"))
    result = _dress("jobs")
    assert result.exit_code == 1 and "dress up" in result.stderr and "Traceback" not in result.stderr


def test_the_environment_goes_before_the_state_folder(
    recipe: Path, served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DRESS_STATE_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DRESS_URL", served)
    monkeypatch.setenv("DRESS_API_KEY", deployment.key)
    assert _dress("jobs", "--json").exit_code == 0


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert absolute("here") == str(tmp_path / "here")
    assert absolute("./missing") == str(tmp_path / "missing")
    assert absolute("~/m") == str(Path.home() / "m")
    assert absolute("owner/name") == "owner/name"


def test_version_and_help() -> None:
    assert _dress("--version").stdout.startswith("dress ")
    told = _dress("--help").stdout
    commands = ("up", "api", "dispatch", "migrate", "submit", "jobs", "show", "events", "cancel", "pause", "resume",
                "retry", "queue", "download", "run", "search")  # fmt: skip
    for command in commands:
        assert command in told
    assert "logs" in _dress("up", "--help").stdout
