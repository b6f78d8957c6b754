"""Bad searches: pointed at where they are wrong, in words that help, and not queued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.search_faults import search_pointer, written_at
from tests.api.conftest import Deployment
from workers.contracts.search import Search

RATIO = {"method.ratio": {"choice": [0.25, 0.5]}}
RANGE = {"method.ratio": {"uniform": [0.1, 0.5]}}
STRENGTH = {"method.strength": {"loguniform": [1e-5, 1e-1]}}

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"space": {}}, "/search/space", "at least 1"),
    ({"space": {"method.strenght": {"choice": [1.0]}, **RATIO}}, "/search/space/method.strenght", "`strength`?"),
    ({"space": {**RATIO, "metod.norm": {"choice": ["l1"]}}}, "/search/space/metod.norm", "did you mean `method`?"),
    ({"space": {"Method": {"choice": [1]}}}, "/search/space/Method", "does not have the right form"),
    ({"space": {"method.ratio": {"choice": [0.25, 1.5]}}}, "/search/space/method.ratio", "1.5"),
    ({"space": {"method.ratio": {"choice": [1.5, 0.25]}}}, "/search/space/method.ratio", "at most 0.9"),
    ({"space": {**RATIO, "method.norm": {"loguniform": [1.0]}}}, "/search/space/method.norm/loguniform", "too few"),
    ({"space": {**RATIO, "a": {"loguniform": [0.0, 1.0]}}}, "/search/space/a/loguniform", "a logarithm needs"),
    ({"space": {**RATIO, "a": {"uniform": [2, 1]}}}, "/search/space/a/uniform", "is an empty range"),
    ({"space": {**RATIO, "a": "uniform(2, 1)"}}, "/search/space/a", "is an empty range"),
    ({"space": {**RATIO, "a": "normal(0, 1)"}}, "/search/space/a", "write one of choice(...)"),
    ({"space": {**RATIO, "a": {"uniforn": [1, 2]}}}, "/search/space/a/uniforn", "did you mean `uniform`?"),
    ({"space": {**RATIO, "resources.gpus": {"choice": [0, 1]}}}, "/search/space", "resources.gpus cannot vary"),
    ({"space": {**RATIO, "model.source": {"choice": ["/nowhere"]}}}, "/search/space/model.source", "/nowhere"),
    ({"objective": []}, "/search/objective", "at least 1"),
    ({"objective": ["perplexity.ptb min"]}, "/search/objective/0", "evaluate.perplexity has wikitext2; add ptb"),
    ({"objective": "perplexity.ptb min"}, "/search/objective", "evaluate.perplexity has wikitext2; add ptb"),
    ({"objective": {"metric": "latency"}}, "/search/objective", "set evaluate.speed to true"),
    ({"objective": [{"metric": "loss"}]}, "/search/objective/0/metric", "loss is none of perplexity.NAME"),
    ({"objective": ["loss min"]}, "/search/objective/0", "loss is none of perplexity.NAME"),
    ({"objective": ["perplexity.wikitext2"]}, "/search/objective/0", "write METRIC min or METRIC max"),
    ({"objective": [{"metric": "parameters", "mode": "least"}]}, "/search/objective/0/mode", "choose `min` or `max`"),
    ({"constraints": ["parameters <= much"]}, "/search/constraints/0", "write METRIC <= BOUND"),
    ({"constraints": ["perplexity.ptb <= 9"]}, "/search/constraints/0", "add ptb"),
    ({"constraints": [{"metric": "parameters"}]}, "/search/constraints/0", "needs at_most or at_least"),
    ({"algorithm": "gird"}, "/search/algorithm", "`gird` is not known; choose `grid`"),
    ({"algorithm": "grid", "space": {**RATIO, **STRENGTH}}, "/search/space/method.strength", "can be counted"),
    ({"scheduler": "asha", "space": RANGE}, "/search/scheduler", "trials of one ratio only"),
    ({"scheduler": "hyperband"}, "/search/scheduler", "`hyperband` is not known; choose one of `asha`, `median`"),
    ({"scheduler": {"kind": "asha", "reduction": 1}}, "/search/scheduler/reduction", "at least 2"),
    ({"scheduler": {"kind": "asha", "reductoin": 3}}, "/search/scheduler/reductoin", "did you mean `reduction`?"),
    ({"trials": None}, "/search/trials", "how many?"),
    ({"trials": 0}, "/search/trials", "at least 1 and at most 10000"),
    ({"budget": {"wall_hours": 0}}, "/search/budget/wall_hours", "greater than 0"),
    ({"first": [{"method.norm": "l1"}]}, "/search/first/0", "method.norm is not in the space"),
    ({"first": [{"method.ratio": 7.0}]}, "/search/first/0", "method.ratio"),
    ({"triels": 4}, "/search/triels", "did you mean `trials`?"),
    ({"base": {}}, "/search/base/model", "is required"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "where", "words"), BAD, ids=[f"{where}-{words[:20]}" for _, where, words in BAD])
def test_a_bad_search_is_pointed_at_and_not_queued(
    http: TestClient, deployment: Deployment, change: dict[str, Any], where: str, words: str
) -> None:
    answer = http.post("/v1/searches", json={"search": {**deployment.search(), **change}})
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json"), answer.text
    told = {item["pointer"]: item["detail"] for item in answer.json()["errors"]}
    assert words in told.get(where, ""), told
    assert "Input should" not in answer.text and "Value error" not in answer.text
    assert http.get("/v1/searches").json()["data"] == []


BAD_BASES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"model": {"source": "/nowhere"}}, {"/search/base/model/source": "/nowhere"}),
    (
        {"data": {"samples": 1, "smaples": 2}, "colour": "red"},
        {
            "/search/base/data/samples": "at least 2",
            "/search/base/data/smaples": "did you mean `samples`?",
            "/search/base/colour": "is not a known field",
        },
    ),
    ({"evaluate": {"perplexity": ["novels"]}}, {"/search/base/evaluate/perplexity/0": "`novels` is not known"}),
    ({"data": {"name": "text", "path": "none"}}, {"/search/base/data/path": "none"}),
    ({"data": {"name": "text", "dataset": "dataset_0"}}, {"/search/base/data/dataset": "there is no data set"}),
    ({"evaluate": {"sequence_length": 4096}}, {"/search/base/evaluate/sequence_length": "context"}),
]


@pytest.mark.parametrize(("change", "told"), BAD_BASES, ids=[next(iter(told)) for _, told in BAD_BASES])
def test_a_bad_base_is_explained_as_a_recipe(
    http: TestClient, deployment: Deployment, change: dict[str, Any], told: dict[str, str]
) -> None:
    search = deployment.search()
    answer = http.post("/v1/searches", json={"search": {**search, "base": {**search["base"], **change}}})
    found = {item["pointer"]: item["detail"] for item in answer.json()["errors"]}
    assert answer.status_code == 422 and found.keys() == told.keys()
    assert all(words in found[where] for where, words in told.items()), found


def test_what_cannot_fit_is_told_of_the_base(http: TestClient, deployment: Deployment) -> None:
    limited = deployment.settings.model_copy(update={"node_memory_gib": 1e-6})
    object.__setattr__(http.app.state.wiring, "settings", limited)  # type: ignore[attr-defined]
    answer = http.post("/v1/searches", json={"search": deployment.search()})
    [item] = answer.json()["errors"]
    assert (answer.json()["type"], item["pointer"]) == ("urn:dress:problem:invalid_search", "/search/base/resources")


def test_what_goes_with_the_search(http: TestClient, deployment: Deployment) -> None:
    cases = [
        ({"labels": {"a b": "c"}}, "/labels/a b"),
        ({"priority": 10**30}, "/priority"),
        ({"metadata": {"x": float("nan")}}, "/metadata/x"),
        ({"recipe": {}}, "/recipe"),
    ]
    for change, where in cases:
        body = json.dumps({"search": deployment.search(), **change})
        answer = http.post("/v1/searches", content=body, headers={"Content-Type": "application/json"})
        assert where in [item["pointer"] for item in answer.json()["errors"]], answer.text
    assert http.post("/v1/searches", json={}).json()["errors"][0]["pointer"] == "/search"


@pytest.mark.parametrize("route", ["/v1/jobs", "/v1/jobs:plan"])
def test_a_search_in_place_of_a_recipe(http: TestClient, deployment: Deployment, route: str) -> None:
    problem = http.post(route, json={"recipe": deployment.search()}).json()
    told = {item["pointer"]: item["detail"] for item in problem["errors"]}
    assert "/v1/searches" in told["/recipe/space"] and "dress search submit" in told["/recipe/base"]
    assert not any("makes it a study" in detail for detail in told.values())


def test_pointers() -> None:
    assert search_pointer("space.method.ratio", {}) == "/search/space/method.ratio"
    assert search_pointer("base.evaluate.perplexity.0.path", {}) == "/search/base/evaluate/perplexity/0/path"
    assert search_pointer("objective.1", {"objective": [{}, {}]}) == "/search/objective/1"
    assert search_pointer("objective.0", {"objective": "parameters min"}) == "/search/objective"
    assert search_pointer("first.2", {}) == "/search/first/2"
    assert search_pointer("space", {}) == "/search/space"


def test_a_recipe_s_field_is_written_in_the_base_or_in_the_space(deployment: Deployment) -> None:
    search = Search.model_validate(deployment.search())
    assert written_at("method.ratio", search) == "space.method.ratio"
    assert written_at("data.path", search) == "base.data.path"
