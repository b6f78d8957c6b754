"""`dress search` against a real server: what it prints where, how it ends, and what it leaves on disk."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from api.cli import app
from api.recipes import search_with_absolute_paths
from service import searches
from tests.api.conftest import Deployment
from tests.processes import DEADLINE_SECONDS, interruptible, until
from workers.contracts.events import Failed, Succeeded
from workers.contracts.results import Results
from workers.contracts.search import Search


@pytest.fixture
def search(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A search's file beside its model, and a command line that finds the server through the state folder."""
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    monkeypatch.delenv("DRESS_URL", raising=False)
    monkeypatch.delenv("DRESS_API_KEY", raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    plain = deployment.search(title="Two ratios")
    plain["base"]["model"]["source"] = "./tiny"
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(plain), "utf-8")
    return file


def dress(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def search_id(search: Path, deployment: Deployment) -> str:
    """A search that four trials have ended of, and the last."""
    made = dress("search", "submit", search).stdout.strip()
    deployment.try_out(made, Succeeded(results=Results()))
    return made


def when_queued(deployment: Deployment, work: Callable[[str], object]) -> threading.Thread:
    """Play a worker's part as soon as there is a search."""

    def look() -> bool:
        with deployment.database.reading() as session:
            found, _ = searches.listing(session, limit=1)
        for job, _ in found:
            work(job.id)
        return bool(found)

    thread = threading.Thread(target=lambda: until(look))
    thread.start()
    return thread


def test_submit_prints_the_id(search: Path, deployment: Deployment) -> None:
    done = dress("search", "submit", search, "--label", "a=b", "--priority", 2, "--set", "trials=3", "--set", "seed=7",
                 "--set", "base.seed=5", "--set", "data.samples=64")  # fmt: skip
    assert done.exit_code == 0 and done.stdout.startswith("search_"), done.stderr
    shown = json.loads(dress("search", "show", done.stdout.strip(), "--json").stdout)
    assert (shown["labels"], shown["priority"], shown["trials_at_most"]) == ({"a": "b"}, 2, 3)
    asked = shown["search"]
    assert (asked["seed"], asked["base"]["seed"], asked["base"]["data"]["samples"]) == (7, 5, 64)
    assert asked["base"]["model"]["source"] == str(deployment.model), "relative paths are made absolute"
    made = json.loads(dress("search", "submit", search, "--json").stdout)
    assert (made["object"], made["status"]) == ("search", "queued")


def test_submit_wait_shows_trials_and_ends_with_their_table(search: Path, deployment: Deployment) -> None:
    worker = when_queued(deployment, lambda each: deployment.try_out(each, Succeeded(results=Results())))
    done = dress("search", "submit", search, "--wait")
    worker.join()
    assert done.exit_code == 0, done.stderr
    for words in ("trial 1: method.strength 0.001", "trial 1 succeeded  perplexity.wikitext2 7.5, parameters 750",
                  "trial 2 stopped  not among the best", "trial 3 succeeded", "12.0 s avoided", "4 of 4 trials",
                  "best so far: trial 1", "trial 4 failed  the loss is gone", "job_succeeded"):  # fmt: skip
        assert words in done.stderr, words
    for words in ("Two ratios", "1 (best)", "3 (frontier)", "stopped", "Best: trial 1", "23.0 s in trials",
                  "12.0 s avoided", "34.3%", "trial 4", "succeeded"):  # fmt: skip
        assert words in done.stdout, words


def test_submit_wait_json_prints_one_object(search: Path, deployment: Deployment) -> None:
    failed = Failed(fault="recipe", code="too_many_failed", message="3 trials failed; look at trial 4")
    worker = when_queued(deployment, lambda each: deployment.try_out(each, failed))
    done = dress("search", "submit", search, "--wait", "--json")
    worker.join()
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["status"], told["error"]["code"], told["best"]["trial"]) == ("failed", "too_many_failed", 1)
    assert "1 (best)" in done.stderr and "3 trials failed" in done.stderr


def test_interrupting_the_wait_leaves_the_search(search: Path) -> None:
    command = interruptible("api.cli", "search", "submit", str(search), "--wait")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "job_queued" in line)
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()  # of one that has ended nothing is left to kill
    assert process.returncode == 130
    assert "The search goes on" in line + rest and "dress search stop search_" in rest and "Traceback" not in rest
    assert json.loads(dress("search", "list", "--json").stdout)["data"][0]["status"] == "queued"


def test_list_and_show_for_people(search: Path, search_id: str) -> None:
    listed = dress("search", "list").stdout
    assert search_id in listed and "4 of 4" in listed and "Two ratios" in listed and "7.5" in listed
    assert dress("search", "list", "--status", "queued").stdout.count("search_") == 0
    shown = dress("search", "show", search_id)
    for words in ("succeeded", "trials: 4 of 4 ended (2 succeeded, 1 failed, 1 stopped)",
                  "best: trial 1, perplexity.wikitext2 7.5, parameters 750", "frontier: trials 1 (7.5, 750), 3 (9",
                  "work: 23.0 s spent, 12.0 s avoided (34%)", "avoided: evaluate dense 12.0 s"):  # fmt: skip
        assert words in shown.stdout, (words, shown.stdout)
    assert dress("show", search_id).stdout == shown.stdout
    assert dress("search", "show", "search_0").exit_code == 1


def test_show_saves_table_and_figures(search: Path, search_id: str, tmp_path: Path) -> None:
    done = dress("search", "show", search_id, "--save", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"table.md", "table.csv", "table.json"} < files
    assert any(name.endswith(".svg") for name in files) and any(name.endswith(".png") for name in files)
    assert "# Two ratios" in (tmp_path / "out/table.md").read_text("utf-8")
    assert dress("search", "show", search_id, "--save", tmp_path / "one.csv").exit_code == 0
    assert (tmp_path / "one.csv").read_text("utf-8").startswith("trial,status")
    wrong = dress("search", "show", search_id, "--save", tmp_path / "one.pdf")
    assert wrong.exit_code == 2 and ".csv" in wrong.stderr


def test_trials_in_every_form(search: Path, search_id: str) -> None:
    told = json.loads(dress("search", "trials", search_id, "--json").stdout)
    assert [trial["trial"] for trial in told["data"]] == [1, 2, 3, 4] and told["object"] == "list"
    assert "1 (best)" in dress("search", "trials", search_id).stdout
    assert dress("search", "trials", search_id, "--format", "csv").stdout.count("\n") == 5
    assert dress("search", "trials", search_id, "--format", "markdown").stdout.startswith("# Two ratios")


def test_promote_stop_pause_and_resume(search: Path, search_id: str, deployment: Deployment) -> None:
    job = json.loads(dress("search", "promote", search_id, 1, "--label", "a=b", "--json").stdout)
    assert job["labels"] == {"a": "b", "search": search_id, "trial": "1"}
    assert dress("search", "promote", search_id, 1).stdout.startswith("job_")
    assert "has no trial 9" in dress("search", "promote", search_id, 9).stderr
    other = dress("search", "submit", search).stdout.strip()
    assert dress("search", "pause", other).stdout == f"{other} paused\n"
    assert json.loads(dress("search", "resume", other, "--json").stdout)["status"] == "queued"
    assert dress("pause", other).stdout == f"{other} paused\n"
    assert dress("resume", other).stdout == f"{other} queued\n"
    assert dress("pause", job["id"]).stdout == f"{job['id']} paused\n"
    assert dress("resume", job["id"]).stdout == f"{job['id']} queued\n"
    assert dress("search", "stop", other).stdout == f"{other} cancelled\n"
    refused = dress("search", "stop", search_id)
    assert refused.exit_code == 1 and "already succeeded" in refused.stderr


def test_promote_wait_follows_the_job(search: Path, search_id: str, deployment: Deployment) -> None:
    def work() -> bool:
        with deployment.database.reading() as session:
            from service import jobs

            found, _ = jobs.listing(session, limit=1)
        for job in found:
            deployment.succeed(job.id)
        return bool(found)

    worker = threading.Thread(target=lambda: until(work))
    worker.start()
    done = dress("search", "promote", search_id, 3, "--wait", "--json")
    worker.join()
    assert done.exit_code == 0 and json.loads(done.stdout)["status"] == "succeeded", done.stderr


def test_events_and_files_of_a_search(search: Path, search_id: str, tmp_path: Path) -> None:
    told = dress("events", search_id, "-f").stdout
    assert "trial_finished" in told and "job_succeeded" in told.splitlines()[-1]
    assert dress("search", "download", search_id, tmp_path / "out").exit_code == 0
    assert (tmp_path / "out/trial-1/model/config.json").read_bytes() == b"{}"
    other = dress("search", "submit", search).stdout.strip()
    early = dress("search", "download", other, tmp_path / "none")
    assert early.exit_code == 1 and "has left no files yet" in early.stderr
    assert dress("cancel", other).stdout == f"{other} cancelled\n"


def test_a_search_is_planned_trial_by_trial(search: Path) -> None:
    planned = dress("plan", search, "--json")
    told = json.loads(planned.stdout)
    assert told["object"] == "study_plan" and len(told["rows"]) == 3, "each value once"
    assert {row["plan"]["recipe"]["method"]["ratio"] for row in told["rows"]} == {0.25, 0.5}
    for words in ("ratio 0.25, strength 1e-5", "shared with an earlier row", "is not known before"):
        assert words in dress("plan", search).stdout, words
    assert dress("search", "list", "--json").stdout.count("search_") == 0, "nothing was queued"


def test_files_of_the_wrong_kind_are_told_where_to_go(search: Path, deployment: Deployment, tmp_path: Path) -> None:
    refused = dress("submit", search)
    assert refused.exit_code == 1 and f"dress search submit {search}" in refused.stderr
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(deployment.recipe()), "utf-8")
    refused = dress("search", "submit", recipe)
    assert refused.exit_code == 1 and f"submit a recipe with `dress submit {recipe}`" in refused.stderr
    assert "submit" in dress("search", "--help").stdout


def test_a_bad_search_is_explained(search: Path, deployment: Deployment) -> None:
    plain = deployment.search(objective="perplexity.ptb min", triels=3)
    search.write_text(yaml.safe_dump(plain), "utf-8")
    refused = dress("search", "submit", search)
    assert refused.exit_code == 1 and "triels: is not a known field; did you mean `trials`?" in refused.stderr
    search.write_text(yaml.safe_dump(deployment.search(space={"method.ratio": {"choice": [1.5]}})), "utf-8")
    assert "space.method.ratio: 1.5 is out of range" in dress("search", "submit", search).stderr


def test_every_path_of_a_search_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = {
        "base": {"model": {"source": "./tiny"}, "data": {"name": "text", "path": "./a.txt"}},
        "space": {
            "model.source": "choice(./tiny, owner/name)",
            "data": {"choice": [{"name": "text", "path": "./b.txt"}, {"name": "ptb"}]},
            "method.ratio": {"uniform": [0.1, 0.5]},
            "method.strength": "no(words)",
        },
        "first": [{"model.source": "./tiny", "method.ratio": 0.2}],
    }
    found = search_with_absolute_paths(plain)
    assert (
        found["base"]["model"]["source"] == f"{tmp_path}/tiny" and found["base"]["data"]["path"] == f"{tmp_path}/a.txt"
    )
    assert found["space"]["model.source"] == {"choice": [f"{tmp_path}/tiny", "owner/name"]}
    assert found["space"]["data"]["choice"][0]["path"] == f"{tmp_path}/b.txt"
    assert (
        found["space"]["method.ratio"] == {"uniform": [0.1, 0.5]} and found["space"]["method.strength"] == "no(words)"
    )
    assert found["first"] == [{"model.source": f"{tmp_path}/tiny", "method.ratio": 0.2}]
    for strange in ({"space": 1, "first": 2, "base": 3}, {"space": {"a": None}, "first": [4]}):
        assert search_with_absolute_paths(dict(strange)) == strange


def test_a_file_that_works_on_the_wire_is_a_search(deployment: Deployment) -> None:
    assert Search.model_validate(deployment.search()).trials_at_most == 4
