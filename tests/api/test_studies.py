"""Studies as jobs: a job a row, labels to find them by, and one table for all, finished or not."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from api.cli import app
from service import jobs
from tests.api.conftest import Deployment
from tests.processes import until
from workers.contracts.events import Failed, StageFinished, Succeeded
from workers.contracts.results import Measurement, Results

STUDY: dict[str, Any] = {
    "title": "Table 9: two ratios",
    "about": "How far it can go.",
    "base": {"model": {"source": "./tiny"}, "method": {"kind": "dress"}},
    "grid": {"method.ratio": [0.25, 0.5]},
    "controls": False,
}
SLUG = "table-9-two-ratios"


@pytest.fixture
def folder(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A current folder beside the model, and a command line that finds the server."""
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    monkeypatch.delenv("DRESS_URL", raising=False)
    monkeypatch.delenv("DRESS_API_KEY", raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dress(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}), "utf-8")
    return file


def succeed(deployment: Deployment, job_id: str, perplexity: float) -> None:
    """Play an attempt: one stage computed, one found."""
    dense = Measurement(parameters=1000, perplexity={"wikitext2": 5.0})
    pruned = Measurement(parameters=750, perplexity={"wikitext2": perplexity})
    deployment.report(
        deployment.lease(job_id),
        1,
        StageFinished(stage="evaluate", subject="dense", key="a", seconds=0.1, reused=True, cost_seconds=30.0),
        StageFinished(stage="regularize", key="b", seconds=12.0, reused=False, cost_seconds=12.0),
        Succeeded(results=Results(dense=dense, pruned=pruned)),
    )


def fail(deployment: Deployment, job_id: str) -> None:
    deployment.report(deployment.lease(job_id), 1, Failed(fault="recipe", code="diverged", message="the loss is gone"))


def test_each_row_is_a_job_with_labels(folder: Path, deployment: Deployment) -> None:
    done = dress("submit", written(folder), "--label", "team=a", "--priority", 3)
    assert done.exit_code == 0, done.stderr
    ids = done.stdout.split()
    assert len(ids) == 2 and f"dress study {SLUG}" in done.stderr
    found = [json.loads(dress("show", job_id, "--json").stdout) for job_id in ids]
    assert [job["recipe"]["method"]["ratio"] for job in found] == [0.25, 0.5]
    assert [job["labels"] for job in found] == [
        {"team": "a", "study": SLUG, "row": row} for row in ("ratio-0-25", "ratio-0-5")
    ]
    assert {(job["recipe"]["model"]["source"], job["priority"]) for job in found} == {(str(deployment.model), 3)}


def test_the_table_grows_with_its_jobs(folder: Path, deployment: Deployment) -> None:
    first, second = dress("submit", written(folder)).stdout.split()
    waiting = dress("study", SLUG).stdout
    assert "# Table 9: two ratios" in waiting and "How far it can go." in waiting
    assert "ratio 0.25 (queued)" in waiting and "ratio 0.5 (queued)" in waiting
    succeed(deployment, first, perplexity=6.5)
    fail(deployment, second)
    line, other = (row for row in dress("study", SLUG).stdout.splitlines() if row.startswith("| ratio"))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("ratio 0.25", "750", "75.0%", "5.00", "6.50", "", "1.300", "42.0")
    ]
    assert "ratio 0.5 (failed)" in other
    assert "- **ratio 0.5**: diverged: the loss is gone" in dress("study", SLUG).stdout
    again = dress("submit", written(folder)).stdout.split()
    rows = json.loads(dress("study", SLUG, "--json").stdout)["rows"]
    assert [row["status"] for row in rows] == ["unfinished"] * 2, "of each row the newest job"
    assert len(again) == 2


def test_waiting_ends_with_the_table(folder: Path, deployment: Deployment) -> None:
    def work() -> bool:
        with deployment.database.reading() as session:
            found = [job.id for job in jobs.listing(session, limit=5)[0]]
        if len(found) == 2:
            succeed(deployment, found[1], 6.5)
            succeed(deployment, found[0], 9.0)
        return len(found) == 2

    worker = threading.Thread(target=lambda: until(work))
    worker.start()
    done = dress("submit", written(folder), "--wait")
    worker.join()
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("# Table 9") and "1.300" in done.stdout and "1.800" in done.stdout
    assert "row 1 of 2: ratio 0.25" in done.stderr and "job_succeeded" in done.stderr


def test_a_refused_row_is_a_failed_line(folder: Path, deployment: Deployment) -> None:
    texts = {"name": "one of them", "change": {"evaluate": {"perplexity": [{"name": "text", "path": "./missing.txt"}]}}}
    file = written(folder, grid={}, rows=[texts, {"name": "two", "change": {"method.ratio": 0.5}}],
                   base={**STUDY["base"], "method": {"kind": "dress", "ratio": 0.25}})  # fmt: skip
    done = dress("submit", file)
    assert done.exit_code == 1 and len(done.stdout.split()) == 1
    assert "evaluate.perplexity[0].path" in done.stderr and "there is no file" in done.stderr
    job_id = done.stdout.strip()
    assert json.loads(dress("show", job_id, "--json").stdout)["labels"]["row"] == "two"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"method.ratoi": [0.5]}}, "method.ratio: row 'ratoi 0.5': Field required"),
        ({"grid": {"method.ratio": [7.0]}}, "method.ratio: row 'ratio 7': Input should be less than"),
        ({"grid": {}}, "a study needs rows, a grid, or both"),
        ({"titel": "x"}, "titel: Extra inputs"),
    ],
)
def test_a_bad_study_queues_nothing(folder: Path, changes: dict[str, Any], words: str) -> None:
    done = dress("submit", written(folder, **changes))
    assert done.exit_code == 1 and done.stdout == ""
    assert words in done.stderr and "Traceback" not in done.stderr
    assert json.loads(dress("jobs", "--json").stdout)["data"] == []


def test_a_study_nobody_submitted(folder: Path) -> None:
    assert "no job has the label study=nothing" in dress("study", "nothing").stderr


def test_settings_change_what_is_submitted(folder: Path, deployment: Deployment) -> None:
    (job_id,) = dress("submit", written(folder), "--set", "method.ratio=0.75", "--set", "seed=5").stdout.split()
    recipe = json.loads(dress("show", job_id, "--json").stdout)["recipe"]
    assert (recipe["method"]["ratio"], recipe["seed"]) == (0.75, 5)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(deployment.recipe()), "utf-8")
    single = dress("submit", file, "--set", "method.ratio=0.5").stdout.strip()
    assert json.loads(dress("show", single, "--json").stdout)["recipe"]["method"]["ratio"] == 0.5
    assert "write FIELD=VALUE" in dress("submit", file, "--set", "ratio").stderr


def test_a_list_of_methods_is_one_submission(folder: Path) -> None:
    file = folder / "methods.yaml"
    methods = [{"kind": "random", "ratio": 0.25}, {"name": "ours", "kind": "dress", "ratio": 0.25}]
    file.write_text(yaml.safe_dump({"model": {"source": "./tiny"}, "methods": methods, "controls": False}), "utf-8")
    done = dress("submit", file)
    assert done.exit_code == 0, done.stderr
    found = [json.loads(dress("show", job_id, "--json").stdout) for job_id in done.stdout.split()]
    assert [job["labels"]["row"] for job in found] == ["random-ratio-0-25", "ours"]
    assert [job["recipe"]["data"]["split"] for job in found] == ["0:1", "3:1"]
    assert "# Methods on tiny" in dress("study", "methods-on-tiny").stdout
    assert "method" in dress("submit", file, "--set", "method.ratio=0.5").stderr
