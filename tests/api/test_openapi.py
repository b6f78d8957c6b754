"""The OpenAPI document is true: Schemathesis calls every operation with good and bad requests and finds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from api.app import create_app
from api.schemas import EXAMPLE_RECIPE
from api.searches import (
    EXAMPLE_SEARCH,
    EXAMPLE_SPEC,
    EXAMPLE_TRIAL,
    PromotionRequest,
    QueuedSearch,
    SearchRequest,
    Trial,
)
from tests.api.conftest import Deployment
from workers.contracts.events import Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, str, dict[str, Any]]]:
    """One app with a finished job, a search and a data set, shared by the examples; and their ids."""
    made = Deployment(tmp_path_factory.mktemp("openapi"))
    app = create_app(made.settings)
    with TestClient(app) as http:
        headers = {"Authorization": f"Bearer {made.key}"}
        job_id = http.post("/v1/jobs", json={"recipe": made.recipe()}, headers=headers).json()["id"]
        made.succeed(job_id, {"model/config.json": b"{}"})
        dataset_id = http.post("/v1/datasets?name=a", content="A text.", headers=headers).json()["id"]
        search = {"search": made.search(scheduler="asha")}
        search_id = http.post("/v1/searches", json=search, headers=headers).json()["id"]
        made.try_out(search_id, Succeeded(results=Results()))
        yield app, made.key, {"job_id": job_id, "dataset_id": dataset_id, "search_id": search_id, "number": 1}
    made.database.dispose()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_document_is_true(deployed: tuple[FastAPI, str, dict[str, Any]], mode: GenerationMode) -> None:
    app, key, ids = deployed
    headers = {"Authorization": f"Bearer {key}"}
    for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        _check(found.ok(), mode, ids, headers)


def _check(operation: Any, mode: GenerationMode, ids: dict[str, Any], headers: dict[str, str]) -> None:
    # A recipe may fit its schema and yet name a model that is not there: 422 is then the right answer.
    excluded = [positive_data_acceptance]
    if operation.label in (
        "GET /v1/jobs",
        "GET /v1/searches",
        "GET /v1/queue",
        "GET /v1/datasets",
        "POST /v1/datasets",
    ):
        # In a query all is text: an object sent as a label is a label. So it is in a body of plain text.
        excluded.append(negative_data_rejection)

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def is_true(case: schemathesis.Case) -> None:
        case.query.pop("wait", None)  # a job at rest would be waited for
        if mode is GenerationMode.POSITIVE:
            case.path_parameters.update({name: ids[name] for name in ids.keys() & case.path_parameters.keys()})
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    with suppress(Unsatisfiable):  # an operation without parameters cannot be called wrongly
        is_true()


def test_examples_and_errors_are_documented(anonymous: TestClient) -> None:
    document = anonymous.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    [example] = document["components"]["schemas"]["JobRequest"]["examples"]
    assert example["recipe"] == EXAMPLE_RECIPE
    Recipe.model_validate(EXAMPLE_RECIPE)
    ratio = document["components"]["schemas"]["DressSettings"]["properties"]["ratio"]
    assert "Share of the hidden channels" in ratio["description"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["operationId"], path
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
            if path.startswith("/v1/"):
                assert operation["security"] == [{"ApiKey": []}] and "401" in operation["responses"]


def test_searches_are_documented(anonymous: TestClient) -> None:
    document = anonymous.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    [example] = schemas["SearchRequest"]["examples"]
    assert SearchRequest.model_validate(example).search.title == EXAMPLE_SPEC["title"]
    for model in (PromotionRequest, QueuedSearch, Trial):
        assert schemas[model.__name__]["examples"]
    QueuedSearch.model_validate(EXAMPLE_SEARCH)  # in the document nulls are left out
    Trial.model_validate(EXAMPLE_TRIAL)
    assert schemas["QueuedSearch"]["properties"]["search"]["$ref"].endswith("/Search")
    assert schemas["Trial"]["properties"]["results"]["anyOf"][0]["$ref"].endswith("/Results")
    assert "Values by field" in schemas["Search"]["properties"]["space"]["description"]
    assert schemas["Objective"]["anyOf"][1]["examples"] == ["perplexity.wikitext2 min"]
    paths = {path for path in document["paths"] if "search" in path}
    parts = ("", "/attempts", "/events", "/artifacts", "/artifacts/{path}", "/trials", "/trials/{number}")
    assert paths == {
        "/v1/searches",
        *(f"/v1/searches/{{search_id}}{part}" for part in parts),
        *(f"/v1/searches/{{search_id}}:{word}" for word in ("stop", "pause", "resume", "retry")),
        "/v1/searches/{search_id}/trials/{number}:promote",
    }
    assert {"/v1/jobs/{job_id}:pause", "/v1/jobs/{job_id}:resume"} < document["paths"].keys()


def test_no_pages_that_need_a_cdn(anonymous: TestClient) -> None:
    assert anonymous.get("/docs").status_code == 404
    assert anonymous.get("/redoc").status_code == 404
