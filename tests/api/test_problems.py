"""Errors: one shape everywhere, pointers that point, words that help, and nothing queued."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from api.app import create_app
from api.explain import field_pointer, pointer, unstorable
from api.middleware import MAX_BODY_BYTES
from tests.api.conftest import Deployment


def _problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status and problem["title"] and problem["detail"]
    assert problem["type"].startswith("urn:dress:problem:")
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    return problem


BAD = [
    ({"method": {"kind": "dress", "ratio": 1.5}}, "/recipe/method/ratio", "greater than 0 and at most 0.9"),
    ({"method": {"kind": "dress", "ratio": 0}}, "/recipe/method/ratio", "greater than 0 and at most 0.9"),
    ({"method": {"kind": "dress", "ratio": "0.2"}}, "/recipe/method/ratio", "must be a number"),
    ({"method": {"kind": "dress"}}, "/recipe/method/ratio", "is required"),
    (
        {"method": {"kind": "shrink", "ratio": 0.2}},
        "/recipe/method",
        "`shrink` is not known; choose one of `dress`, `dense`, `magnitude`, `random`, `sleb`, `slicegpt`, "
        "`llm_surgeon` as `kind`",
    ),
    ({"method": {"ratio": 0.2, "strenght": 1}}, "/recipe/method/strenght", "did you mean `strength`?"),
    ({"model": {"source": "/nowhere/at/all"}}, "/recipe/model/source", "/nowhere/at/all"),
    ({"model": "tiny"}, "/recipe/model", "must be an object"),
    ({"recover": {"kind": "magic"}}, "/recipe/recover", "`magic` is not known; choose one of `none`, `lora`, `full`"),
    ({"recover": {"kind": "lora", "rank": 1.5}}, "/recipe/recover/rank", "whole number"),
    ({"recover": {"rank": 1}}, "/recipe/recover", "needs the field `kind`"),
    ({"data": {"samples": 1}}, "/recipe/data/samples", "at least 2"),
    ({"data": {"split": "all"}}, "/recipe/data/split", "form"),
    ({"data": {"name": "text"}}, "/recipe/data", "needs the path of a file"),
    ({"evaluate": {"perplexity": ["novels"]}}, "/recipe/evaluate/perplexity/0", "`novels` is not known"),
    ({"evaluate": {"perplexity": "ptb"}}, "/recipe/evaluate/perplexity", "must be a list"),
    ({"evaluate": {"tasks": ["no task"]}}, "/recipe/evaluate/tasks/0", "does not have the right form"),
    ({"resources": {"gpus": 9}}, "/recipe/resources/gpus", "0 or 1"),
    ({"colour": "red"}, "/recipe/colour", "is not a known field"),
    ({"methods": [{"kind": "sleb", "ratio": 0.25}]}, "/recipe/methods", "makes it a study, which is a job for each"),
    ({"rows": []}, "/recipe/rows", "submit the file with `dress submit`"),
    ({"metadata": {"methods": []}}, "/recipe/metadata", "is not a known field"),
]


@pytest.mark.parametrize(("change", "where", "words"), BAD, ids=[where for _, where, _ in BAD])
def test_a_bad_recipe_is_pointed_at_and_not_queued(
    http: TestClient, deployment: Deployment, change: dict[str, Any], where: str, words: str
) -> None:
    problem = _problem(http.post("/v1/jobs", json={"recipe": {**deployment.recipe(), **change}}), 422)
    told = {item["pointer"]: item["detail"] for item in problem["errors"]}
    assert words in told[where]
    assert "Input should" not in json.dumps(problem) and "Value error" not in json.dumps(problem)
    assert http.get("/v1/jobs").json()["data"] == []


def test_a_recipe_with_methods_is_told_that_it_is_a_study_wherever_one_recipe_is_wanted(
    http: TestClient, deployment: Deployment
) -> None:
    recipe = {name: value for name, value in deployment.recipe().items() if name != "method"}
    body = {"recipe": {**recipe, "methods": [{"kind": "sleb", "ratio": 0.25}]}}
    for route in ("/v1/jobs", "/v1/jobs:plan"):
        told = {item["pointer"]: item["detail"] for item in _problem(http.post(route, json=body), 422)["errors"]}
        assert "post each of its recipes as a job of its own, with one `method`" in told["/recipe/methods"]
    elsewhere = {"recipe": deployment.recipe(), "methods": []}
    (item,) = _problem(http.post("/v1/jobs", json=elsewhere), 422)["errors"]
    assert (item["pointer"], "study" in item["detail"]) == ("/methods", False)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"after": ["job_1"]}, "/after"),
        ({"priority": 10**30}, "/priority"),
        ({"labels": {"a b": "c"}}, "/labels/a b"),
        ({"labels": {"a": 1}}, "/labels/a"),
        ({"metadata": {"x": ["\0"]}}, "/metadata/x/0"),
        ({"metadata": {"x": "\ud800"}}, "/metadata/x"),
        ({"metadata": {"x": float("nan")}}, "/metadata/x"),
        ({"metadata": {"\0": 1}}, "/metadata"),
        ({"metadata": []}, "/metadata"),
    ],
)
def test_what_goes_with_the_recipe(
    http: TestClient, deployment: Deployment, change: dict[str, Any], where: str
) -> None:
    body = json.dumps({"recipe": deployment.recipe(), **change})
    answer = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert where in [item["pointer"] for item in _problem(answer, 422)["errors"]]


def test_nesting_without_end(http: TestClient, deployment: Deployment) -> None:
    deep = json.dumps({"recipe": deployment.recipe(), "metadata": {"x": 0}}).replace(
        "0}}", "[" * 300 + "]" * 300 + "}}"
    )
    _problem(http.post("/v1/jobs", content=deep, headers={"Content-Type": "application/json"}), 422)
    deeper = "[" * 200_000
    answer = http.post("/v1/jobs", content=deeper, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"\xff\xfe\xff", "application/json", 400),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"", "application/json", 422),
        (b"{}", "text/plain", 422),
    ],
)
def test_bodies_that_are_no_requests(http: TestClient, content: bytes, kind: str, status: int) -> None:
    _problem(http.post("/v1/jobs", content=content, headers={"Content-Type": kind}), status)


def test_bodies_beyond_the_limit(http: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b" " * 65536 for _ in range(MAX_BODY_BYTES // 65536 + 1))

    headers = {"Content-Type": "application/json"}
    for content in (b" " * (MAX_BODY_BYTES + 1), pieces()):
        assert "larger" in _problem(http.post("/v1/jobs", content=content, headers=headers), 413)["detail"]


def test_query_parameters_and_headers(http: TestClient, job_id: str, deployment: Deployment) -> None:
    problem = _problem(http.get("/v1/jobs", params={"limit": 0, "status": "lost", "created_after": "noon"}), 422)
    assert {item["parameter"] for item in problem["errors"]} == {"limit", "status", "created_after"}
    _problem(http.get(f"/v1/jobs/{job_id}", params={"wait": 61}), 422)
    _problem(http.get(f"/v1/jobs/{job_id}/events", params={"after": 10**30}), 422)
    body = {"recipe": deployment.recipe()}
    _problem(http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k" * 256}), 422)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("secret", ["", "Bearer", "Bearer wrong", "Basic eDp5"])
def test_a_key_is_always_required(anonymous: TestClient, deployment: Deployment, method: str, secret: str) -> None:
    headers = {"Authorization": secret} if secret else {}
    answer = anonymous.request(method, "/v1/jobs", headers=headers, json={"recipe": deployment.recipe()})
    assert _problem(answer, 401)["type"].endswith(":unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "wrong" not in answer.text


def test_every_route_but_health_wants_the_key(anonymous: TestClient) -> None:
    document = anonymous.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            status = anonymous.request(method, path.replace("{job_id}", "job_1").replace("{path}", "x")).status_code
            assert status == (200 if path in ("/healthz", "/readyz") else 401), (method, path)


def test_the_local_key_is_private(http: TestClient, deployment: Deployment) -> None:
    assert deployment.settings.api_key_file.stat().st_mode & 0o777 == 0o600


def test_things_that_are_not_there(http: TestClient, job_id: str) -> None:
    for path in ("/v1/nothing", "/v1/jobs/", "/v1/jobs/job_0", "/v1/jobs/%00", "/v1/jobs/job_0/events",
                 "/v1/jobs/job_0/attempts", "/v1/jobs/job_0/artifacts", f"/v1/jobs/{job_id}/artifacts/%2e%2e%2fx",
                 f"/v1/jobs/{job_id}/artifacts/model/%00", "/v1/jobs?after=job_0"):  # fmt: skip
        _problem(http.get(path), 404)
    _problem(http.post("/v1/jobs/job_0:cancel"), 404)


def test_method_not_allowed(http: TestClient) -> None:
    answer = http.put("/v1/jobs")
    _problem(answer, 405)
    assert answer.headers["Allow"] == "GET, POST"


def test_a_fault_of_ours(http: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("service.jobs.listing", broken)
    problem = _problem(http.get("/v1/jobs", headers={"X-Request-ID": "mine-1"}), 500)
    assert problem["request_id"] == "mine-1" and "secret detail" not in json.dumps(problem)
    assert "mine-1" in caplog.text


def test_not_ready_until_migrated(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    database = deployment.state / "dress.sqlite3"
    for file in deployment.state.glob("dress.sqlite3*"):
        file.rename(deployment.state / ("kept" + file.name.removeprefix("dress.sqlite3")))
    with TestClient(create_app(deployment.settings)) as http:
        assert http.get("/healthz").status_code == 200
        assert "dress migrate" in _problem(http.get("/readyz"), 503)["detail"]
        for file in deployment.state.glob("kept*"):
            file.rename(str(database) + file.name.removeprefix("kept"))
        assert http.get("/readyz").json() == {"status": "ok"}
        assert http.get("/v1/jobs", headers={"Authorization": f"Bearer {deployment.key}"}).status_code == 200


def test_other_hosts_are_refused(deployment: Deployment) -> None:
    app = create_app(deployment.settings, hosts={"localhost", "127.0.0.1", "::1"})
    with TestClient(app, base_url="http://localhost:8000") as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/healthz", headers={"Host": "[::1]:8000"}).status_code == 200
        _problem(http.get("/healthz", headers={"Host": "evil.example"}), 421)
        _problem(http.get("/healthz", headers={"Host": "localhost.evil.example:8000"}), 421)


def test_the_api_imports_nothing_heavy() -> None:
    code = (
        "import sys, api.__main__, api.cli;"
        "print([m for m in ('torch','ray','transformers','peft','lm_eval','datasets') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab/~", max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_ordinary_json_is_storable(value: Any) -> None:
    assert list(unstorable(value)) == []


@given(st.lists(st.text("ab/~", max_size=4) | st.integers(0, 9), max_size=5))
def test_pointers_can_be_read_back(parts: list[str | int]) -> None:
    read = [part.replace("~1", "/").replace("~0", "~") for part in pointer(parts).split("/")[1:]]
    assert read == [str(part) for part in parts]


def test_pointers_of_dotted_fields() -> None:
    assert field_pointer("evaluate.perplexity[1].path") == "/recipe/evaluate/perplexity/1/path"
    assert field_pointer("evaluate.perplexity.1.path") == "/recipe/evaluate/perplexity/1/path"
