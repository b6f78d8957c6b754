"""Jobs side by side: over HTTP, by the client and on the command line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from api.cli import app
from api.client import Client
from api.comparisons import MOST_IDS
from api.failures import Invalid, Missing
from tests.api.conftest import Deployment
from tests.workers.comparison.rows import dense, measured, protocol
from workers.contracts.events import Failed, StageFinished, StageStarted, Succeeded
from workers.contracts.results import Results


def submitted(http: TestClient, deployment: Deployment, method: dict[str, Any], **more: Any) -> str:
    recipe = {**deployment.recipe(), "method": method}
    return str(http.post("/v1/jobs", json={"recipe": recipe, **more}).json()["id"])


def succeed(deployment: Deployment, job_id: str, parameters: int, perplexity: float, **of_dense: Any) -> None:
    """Play an attempt that found one stage and computed one."""
    results = Results(
        dense=dense(**of_dense), pruned=measured(parameters, 30.0), recovered=measured(parameters, perplexity)
    )
    deployment.report(
        deployment.lease(job_id),
        1,
        StageFinished(stage="evaluate", subject="dense", key="a", seconds=0.1, reused=True, cost_seconds=30.0),
        StageFinished(stage="regularize", key="b", seconds=12.0, reused=False, cost_seconds=12.0),
        Succeeded(results=results),
    )


@pytest.fixture
def ids(http: TestClient, deployment: Deployment) -> list[str]:
    """Two that succeeded, one that failed, one that runs, one that waits."""
    made = [
        submitted(http, deployment, {"kind": "dress", "preset": "paper", "ratio": 0.25}, labels={"team": "a"}),
        submitted(http, deployment, {"kind": "magnitude", "ratio": 0.25}, labels={"team": "b"}),
        submitted(http, deployment, {"kind": "dress", "ratio": 0.5}),
        submitted(http, deployment, {"kind": "magnitude", "ratio": 0.5}),
        submitted(http, deployment, {"kind": "random", "ratio": 0.5}),
    ]
    succeed(deployment, made[0], 1500, 12.0)
    succeed(deployment, made[1], 1510, 14.0, perplexity_protocol={"valid": protocol(windows=4)})
    deployment.report(deployment.lease(made[2]), 1, Failed(fault="recipe", code="diverged", message="the loss is gone"))
    deployment.report(deployment.lease(made[3]), 1, StageStarted(stage="prune", key="k", index=0, count=1))
    return made


def test_one_row_a_job_whatever_became_of_it(http: TestClient, ids: list[str]) -> None:
    answer = http.get("/v1/jobs:compare", params={"id": ids})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["object"], [row["id"] for row in told["rows"]]) == ("comparison", ids)
    ours, plain, failed, running, waiting = told["rows"]
    assert ours["figures"]["perplexity.valid.ratio"] == 1.2 and ours["figures"]["seconds"] == 42.0
    assert (plain["figures"]["method"], plain["labels"], plain["same_size_as"]) == ("magnitude", {"team": "b"}, [0])
    assert (failed["status"], failed["error"]) == ("failed", "diverged: the loss is gone")
    assert (running["status"], running["state"], waiting["state"]) == ("unfinished", "running: prune", "queued")
    [note] = told["notes"]
    assert note["cause"] == "perplexity_protocol" and "windows 4 instead of 12" in note["message"]
    assert plain["marks"]["perplexity.valid.recovered"] == [1] and ours["marks"] == {}
    assert told["rows"][0]["results"]["dense"]["parameters"] == 2000 and ours["recipe"]["method"]["ratio"] == 0.25


def test_markdown_and_csv(http: TestClient, ids: list[str]) -> None:
    markdown = http.get("/v1/jobs:compare", params={"id": ids, "format": "markdown"})
    assert markdown.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert "14.00 [1]" in markdown.text and "windows 4 instead of 12" in markdown.text
    assert f"{ids[2]} (failed)" in markdown.text and f"{ids[3]} (running: prune)" in markdown.text
    table = http.get("/v1/jobs:compare", params={"id": ids, "format": "csv"})
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(table.text)))
    assert [line["id"] for line in lines] == ids and lines[0]["perplexity.valid.recovered"] == "12.0"


def test_order_repetition_and_labels(http: TestClient, ids: list[str]) -> None:
    def order(**params: Any) -> list[str]:
        return [row["id"] for row in http.get("/v1/jobs:compare", params=params).json()["rows"]]

    assert order(id=[ids[1], ids[0], ids[1]]) == [ids[1], ids[0]]
    assert order(id=ids, sort="-parameters") == [ids[1], ids[0], *ids[2:]]
    assert order(label=["team=a"]) == [ids[0]] and order(label=["team"]) == ids[:2]
    assert order(id=[ids[1]], label=["team=a", "team=b"]) == [ids[1], ids[0]]
    assert order(label=["team=nobody"]) == []


def test_a_study_is_its_newest_rows_in_their_order(http: TestClient, deployment: Deployment) -> None:
    def row(place: int, name: str) -> str:
        labels = {"study": "table-9", "row": name}
        metadata = {"study": {"title": "Table 9", "about": "Why."}, "row": {"name": name.upper(), "place": place}}
        return submitted(http, deployment, {"kind": "random", "ratio": 0.5}, labels=labels, metadata=metadata)

    row(1, "a")
    second, first = row(2, "b"), row(1, "a")
    told = http.get("/v1/jobs:compare", params={"label": "study=table-9"}).json()
    assert [each["id"] for each in told["rows"]] == [first, second]
    assert (told["title"], told["about"], [each["name"] for each in told["rows"]]) == ("Table 9", "Why.", ["A", "B"])


@pytest.mark.parametrize("noted", [7, [], {"name": None}, {"place": "x", "is_control": "yes"}])
def test_metadata_of_the_callers_own_are_no_rows(http: TestClient, deployment: Deployment, noted: Any) -> None:
    metadata = {"row": noted, "study": noted}
    job_id = submitted(http, deployment, {"kind": "random", "ratio": 0.5}, labels={"t": "1"}, metadata=metadata)
    told = http.get("/v1/jobs:compare", params={"label": "t=1"}).json()
    assert [(row["name"], row["is_control"]) for row in told["rows"]] == [(job_id, False)]


@pytest.mark.parametrize("path", ["", "/figures", "/figures/tasks.svg"])
def test_wrong_requests_are_explained(http: TestClient, ids: list[str], path: str) -> None:
    def refused(status: int, **params: Any) -> list[dict[str, str]]:
        answer = http.get(f"/v1/jobs:compare{path}", params=params)
        assert answer.status_code == status, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        errors: list[dict[str, str]] = answer.json()["errors"]
        return errors

    unknown = refused(404, id=[ids[0], "job_x", "job_y"])
    assert unknown == [{"parameter": "id", "detail": f"there is no job {job_id!r}"} for job_id in ("job_x", "job_y")]
    assert refused(422) == [{"parameter": "id", "detail": "is required, or a label; name the jobs to compare"}]
    [many] = refused(422, id=["job_x"] * (MOST_IDS + 1))
    assert (many["parameter"], many["detail"]) == ("id", "is too long; give at most 100 entries")


def test_a_column_that_is_not_there(http: TestClient, ids: list[str]) -> None:
    answer = http.get("/v1/jobs:compare", params={"id": ids, "sort": "size"})
    [item] = answer.json()["errors"]
    assert answer.status_code == 422 and item["parameter"] == "sort"
    assert "no column 'size' here; sort by one of name, method, ratio, parameters" in item["detail"]


def test_it_wants_a_key(anonymous: TestClient) -> None:
    for path in ("", "/figures", "/figures/tasks.svg"):
        assert anonymous.get(f"/v1/jobs:compare{path}", params={"id": "job_x"}).status_code == 401


def test_figures_written_by_another_version_are_no_fault(
    http: TestClient, deployment: Deployment, ids: list[str]
) -> None:
    from service.database.tables import Job

    with deployment.database.writing() as session:
        job = session.get(Job, ids[0])
        assert job is not None
        job.results = {"dense": {"parameters": "many"}}
    [row] = http.get("/v1/jobs:compare", params={"id": ids[0]}).json()["rows"]
    assert row["results"]["dense"] is None and "recorded by another version" in row["error"]


def test_figures_are_listed_and_drawn(http: TestClient, ids: list[str]) -> None:
    listed = http.get("/v1/jobs:compare/figures", params={"id": ids[:2]}).json()["data"]
    names = [each["name"] for each in listed]
    assert "perplexity_by_parameters_valid" in names
    [chosen] = [each for each in listed if each["name"] == "perplexity_by_parameters_valid"]
    svg = http.get(chosen["svg"])
    assert (svg.status_code, svg.headers["Content-Type"]) == (200, "image/svg+xml")
    assert svg.text.startswith("<?xml") and "Perplexity on valid" in svg.text
    png = http.get(chosen["png"])
    assert png.headers["Content-Type"] == "image/png" and png.content.startswith(b"\x89PNG")
    missing = http.get("/v1/jobs:compare/figures/portrait.svg", params={"id": ids[:2]})
    assert missing.status_code == 404 and "perplexity_by_parameters_valid" in missing.json()["detail"]
    assert http.get("/v1/jobs:compare/figures/tasks.gif", params={"id": ids[:2]}).status_code == 422


def test_nothing_is_drawn_of_jobs_that_measured_nothing(http: TestClient, ids: list[str]) -> None:
    assert http.get("/v1/jobs:compare/figures", params={"id": ids[4]}).json()["data"] == []
    missing = http.get("/v1/jobs:compare/figures/tasks.svg", params={"id": ids[4]})
    assert missing.status_code == 404 and "too little was measured" in missing.json()["detail"]


def test_the_client_compares(client: Client, http: TestClient, ids: list[str]) -> None:
    made = client.compare(*ids[:2], sort="-parameters")
    assert [row.id for row in made.rows] == [ids[1], ids[0]]
    assert made.rows[0].results.recovered is not None and made.rows[0].results.recovered.parameters == 1510
    assert [row.id for row in client.compare(labels=["team=a"]).rows] == [ids[0]]
    with pytest.raises(Missing, match="there is no job 'job_x'|There is no job 'job_x'"):
        client.compare("job_x")
    with pytest.raises(Invalid, match="name the jobs"):
        client.compare()


@pytest.fixture
def dress(served: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line, which finds the server."""
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    monkeypatch.delenv("DRESS_URL", raising=False)
    monkeypatch.delenv("DRESS_API_KEY", raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")

    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(app, ["compare", *map(str, arguments)])

    return run


def test_few_jobs_stand_beside_each_other(dress: Any, ids: list[str]) -> None:
    done = dress(*ids)
    assert done.exit_code == 0, done.output
    assert all(words in done.stdout for words in ("dress paper", "magnitude", "14.00 [1]", "(failed)", "% of dense"))
    assert "[1] perplexity on valid: windows 4 instead of 12." in done.stdout
    assert "diverged: the loss is gone" in done.stdout


def test_other_forms_go_through_a_pipe(dress: Any, ids: list[str]) -> None:
    assert json.loads(dress(*ids, "--format", "json").stdout)["rows"][0]["id"] == ids[0]
    assert dress(*ids, "--format", "markdown").stdout.startswith("# Comparison")
    told = dress("--label", "team", "--sort", "-parameters", "--format", "csv").stdout
    assert [line["id"] for line in csv.DictReader(io.StringIO(told))] == [ids[1], ids[0]]


def test_it_is_saved(dress: Any, ids: list[str], tmp_path: Path) -> None:
    done = dress(*ids[:2], "--save", tmp_path / "out")
    assert done.exit_code == 0, done.output
    left = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"table.md", "table.csv", "table.json", "perplexity_by_parameters_valid.svg"} <= left
    assert {file.removesuffix(".svg") for file in left if file.endswith(".svg")} == {
        file.removesuffix(".png") for file in left if file.endswith(".png")
    }
    assert dress(*ids[:2], "--save", tmp_path / "one.csv").exit_code == 0
    assert (tmp_path / "one.csv").read_text("utf-8").startswith("name,id,labels,status")
    refused = dress(*ids[:2], "--save", tmp_path / "one.docx")
    assert refused.exit_code == 2 and ".json, .md, .csv" in refused.stderr
    unwritable = dress(*ids[:2], "--save", tmp_path / "nowhere" / "one.csv")
    assert unwritable.exit_code == 1 and "Traceback" not in unwritable.stderr


def test_wrong_commands_are_explained(dress: Any, ids: list[str]) -> None:
    assert (dress().exit_code, dress("job_x").exit_code) == (2, 1)
    assert "there is no job 'job_x'" in dress("job_x").stderr
    assert "no job has the label team=nobody" in dress("--label", "team=nobody").stderr
    assert "sort by one of" in dress(*ids, "--sort", "size").stderr


def test_the_server_starts_without_matplotlib() -> None:
    code = "import sys, api.app, api.cli; print(*{'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
