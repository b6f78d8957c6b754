"""Plans over HTTP, by the client and on the command line; and that nothing heavy is loaded for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from api.app import create_app
from api.cli import app
from api.client import Client
from api.display import plan_table
from api.failures import Invalid
from api.plans import EXAMPLE_PLAN, Plan
from api.schemas import EXAMPLE_RECIPE
from api.study_plans import plan_study
from tests.api.conftest import Deployment
from workers.contracts.recipe import Recipe
from workers.contracts.study import Row

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "ray", "transformers", "peft", "datasets", "lm_eval", "huggingface_hub"}


@pytest.fixture
def recipe(deployment: Deployment) -> dict[str, Any]:
    """A recipe whose model and text are where the server can look."""
    text = deployment.model.parent / "text.txt"
    text.write_text("What every layer reads, what nobody needs.\n" * 50, "utf-8")
    data = {"name": "text", "path": str(text), "samples": 8, "sequence_length": 16}
    return {**deployment.recipe(), "data": data, "evaluate": {"perplexity": []}}


def test_a_plan_is_told_and_nothing_is_queued(http: TestClient, recipe: dict[str, Any]) -> None:
    answer = http.post("/v1/jobs:plan", json={"recipe": recipe, "labels": {"team": "a"}})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    stages = ["evaluate", "covariance", "basis", "regularize", "prune"]
    assert [stage["stage"] for stage in plan["stages"]][:5] == stages
    assert [[part["name"] for part in stage["parts"]] for stage in plan["stages"]][:2] == [["the sizes"], []]
    assert all(stage["known"] is False and len(stage["key"]) == 64 for stage in plan["stages"])
    assert plan["models"]["pruned"] == {"parameters": plan["models"]["pruned"]["parameters"], "hidden_size": 48}
    assert plan["seconds"] > 0 and plan["gpu_hours"] == 0
    assert plan["recipe"]["method"]["preset"] == "recommended"
    assert http.get("/v1/jobs").json()["data"] == []


def test_a_recipe_that_could_never_run_is_refused_as_by_submission(http: TestClient, recipe: dict[str, Any]) -> None:
    for change in ({"seed": -1}, {"model": {"source": "/etc"}}, {"data": {"name": "text", "path": "/nowhere"}}):
        body = {"recipe": {**recipe, **change}}
        planned, submitted = http.post("/v1/jobs:plan", json=body), http.post("/v1/jobs", json=body)
        assert planned.status_code == submitted.status_code == 422
        assert planned.headers["Content-Type"] == "application/problem+json"
        assert planned.json()["errors"] == submitted.json()["errors"]


def test_a_plan_wants_a_key_and_a_clean_body(
    anonymous: TestClient, deployment: Deployment, recipe: dict[str, Any]
) -> None:
    assert anonymous.post("/v1/jobs:plan", json={"recipe": recipe}).status_code == 401
    headers = {"Authorization": f"Bearer {deployment.key}"}
    body = {"recipe": recipe, "metadata": {"note": "\0"}}
    refused = anonymous.post("/v1/jobs:plan", json=body, headers=headers)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/metadata/note")


def test_planning_loads_nothing_heavy(deployment: Deployment, recipe: dict[str, Any]) -> None:
    """In a fresh process, with a model and a text to digest."""
    code = (
        "import json, sys\n"
        "from fastapi.testclient import TestClient\n"
        "from api.app import create_app\n"
        "from service.settings import Settings\n"
        "with TestClient(create_app(Settings.from_environment())) as http:\n"
        "    headers = {'Authorization': 'Bearer ' + open(sys.argv[1]).read().strip()}\n"
        "    answer = http.post('/v1/jobs:plan', json=json.loads(sys.argv[2]), headers=headers)\n"
        f"heavy = sorted(set(sys.modules) & {HEAVY!r})\n"
        "print(json.dumps({'status': answer.status_code, 'plan': answer.json(), 'heavy': heavy}))\n"
    )
    root = str(deployment.model.parent)
    environment = {"DRESS_STATE_DIR": str(deployment.state), "DRESS_MODEL_ROOTS": root, "DRESS_DATA_ROOTS": root}
    command = [sys.executable, "-c", code, str(deployment.settings.api_key_file), json.dumps({"recipe": recipe})]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["status"], told["heavy"]) == (200, [])
    assert all(stage["key"] for stage in told["plan"]["stages"]), "digests were computed"


def test_the_client_plans(client: Client, recipe: dict[str, Any]) -> None:
    plan = client.plan(recipe)
    assert plan.models["dense"].hidden_size == 64 and plan.stages[0].subject == "dense"
    assert client.jobs.list().data == []
    with pytest.raises(Invalid, match="seed"):
        client.plan({**recipe, "seed": -1})


@pytest.fixture
def file(
    served: str, deployment: Deployment, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A recipe file, and a command line that finds the server."""
    monkeypatch.setenv("DRESS_STATE_DIR", str(deployment.state))
    monkeypatch.delenv("DRESS_URL", raising=False)
    monkeypatch.delenv("DRESS_API_KEY", raising=False)
    (deployment.state / "url").write_text(served + "\n", "utf-8")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), "utf-8")
    return file


def dress(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_prints_a_table(file: Path) -> None:
    done = dress("plan", file)
    assert done.exit_code == 0, done.output
    for words in ("evaluate dense", "regularize", "to compute", "pruned: ", "hidden size 48", "GPU-hours: 0"):
        assert words in done.stdout, done.stdout


def test_the_command_prints_json(file: Path) -> None:
    done = dress("plan", file, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["object"] == "plan"


def test_the_command_fails_for_what_cannot_be_planned(file: Path, tmp_path: Path) -> None:
    done = dress("plan", file, "--set", "method.ratio=7")
    assert done.exit_code == 1 and "method.ratio" in done.stderr
    assert dress("plan", tmp_path / "nowhere.yaml").exit_code == 1
    file.write_text("title: t\nabout: a\nbase: {}\nrows: [{name: one}]\n", "utf-8")
    done = dress("plan", file)
    assert done.exit_code == 1 and "row 'one': Field required" in done.stderr


def test_a_study_is_planned_row_by_row_and_shared_stages_count_once(file: Path, recipe: dict[str, Any]) -> None:
    single = json.loads(dress("plan", file, "--json").stdout)
    rows = [
        {"name": "as it is"},
        {"name": "with [more] recovery", "change": {"recover": {"kind": "lora", "rank": 4}}},
        {"name": "refused", "change": {"model.source": "/nowhere"}},
    ]
    study = {"title": "t", "about": "a", "base": recipe, "rows": rows[:2], "controls": False}
    file.write_text(yaml.safe_dump(study), "utf-8")
    told = json.loads(dress("plan", file, "--json").stdout)
    first, second = (row["plan"] for row in told["rows"])
    assert (told["object"], told["fits"]) == ("study_plan", first["fits"]) and first["stages"] == single["stages"]
    assert told["stages"] == len(first["stages"]) + len(second["stages"])
    keys = {stage["key"]: stage["seconds"] for plan in (first, second) for stage in plan["stages"]}
    assert told["shared"] == told["stages"] - len(keys) == 6, "all but recovery and what it leaves"
    assert told["seconds"] == pytest.approx(sum(keys.values())) and told["seconds"] < first["seconds"] * 2
    done = dress("plan", file)
    assert done.exit_code == 0 and "with [more] recovery" in done.stdout
    assert f"{told['stages']} stages: {len(keys)} to compute, 6 shared with an earlier row, 0 known" in done.stdout
    file.write_text(yaml.safe_dump({**study, "rows": rows}), "utf-8")
    refused = dress("plan", file)
    assert refused.exit_code == 1 and "refused: model.source" in refused.stdout.replace("/recipe/", "")


def test_gpu_hours_of_a_study_count_each_stage_once() -> None:
    def planned(*keys: str | None, known: bool = False) -> Plan:
        stages = [{**EXAMPLE_PLAN["stages"][1], "key": key, "known": known, "seconds": 3600.0} for key in keys]
        recipe = {"resources": {"gpus": 2}}
        return Plan.model_validate({**EXAMPLE_PLAN, "stages": stages, "recipe": recipe})

    plans = iter([planned("a", "b"), planned("b", None), planned("a", None), planned("c", known=True)])
    asked = SimpleNamespace(plan=lambda _recipe: next(plans))
    rows = [Row(name, name, Recipe.model_validate(EXAMPLE_RECIPE)) for name in "pqrs"]
    told = plan_study(cast(Client, asked), rows)
    assert (told.stages, told.shared, told.known) == (7, 2, 1)
    assert (told.seconds, told.gpu_hours) == (4 * 3600.0, 8.0), "a stage without a key may be another each time"


def test_what_does_not_fit_is_planned_and_not_queued(
    deployment: Deployment, recipe: dict[str, Any], http: TestClient
) -> None:
    tight = deployment.settings.model_copy(update={"node_memory_gib": 1e-6})
    headers = {"Authorization": f"Bearer {deployment.key}"}
    with TestClient(create_app(tight)) as narrow:
        plan = narrow.post("/v1/jobs:plan", json={"recipe": recipe}, headers=headers)
        refused = narrow.post("/v1/jobs", json={"recipe": recipe}, headers=headers)
    assert plan.status_code == 200 and plan.json()["fits"] is False
    assert refused.status_code == 422
    [item] = refused.json()["errors"]
    assert item == {"pointer": "/recipe/resources", "detail": plan.json()["refusal"]}
    assert http.get("/v1/jobs").json()["data"] == []


def test_the_command_ends_with_1_for_what_does_not_fit(
    file: Path, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Plan.model_validate({**EXAMPLE_PLAN, "fits": False, "refusal": "the regularize stage needs about 9 GiB"})
    monkeypatch.setattr(Client, "plan", lambda _client, _recipe: told)
    done = dress("plan", file)
    assert done.exit_code == 1 and "needs about 9 GiB" in done.stdout
    assert "known" in done.stdout and "34.0 GiB" in done.stdout and "26 min" in done.stdout


def test_a_repeated_request_gets_its_answer_though_the_model_is_gone(
    http: TestClient, deployment: Deployment, recipe: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": "once"}
    first = http.post("/v1/jobs", json={"recipe": recipe}, headers=headers)
    assert first.status_code == 201
    deployment.model.rename(deployment.model.with_name("moved"))
    again = http.post("/v1/jobs", json={"recipe": recipe}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert http.post("/v1/jobs", json={"recipe": recipe}).status_code == 422


def test_an_evaluation_says_which_of_its_parts_are_missing() -> None:
    """Known parts are named nowhere else in the table, and a name is shown as it stands."""

    def shown(*known: bool | None) -> str:
        parts = [{"name": f"text-{place}", "key": None, "known": each} for place, each in enumerate(known)]
        stage = {**EXAMPLE_PLAN["stages"][0], "known": None if None in known else all(known), "parts": parts}
        return next(iter(plan_table(Plan.model_validate({**EXAMPLE_PLAN, "stages": [stage]})).columns[1].cells))

    assert shown(True, False, False) == "to compute: text-1, text-2"
    assert shown(False, False) == "to compute"
    assert "known" in shown(True, True) and "?" in shown(True, None)
