"""Data sets over HTTP: streamed in, checked on the way, kept by digest, held by jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.inline_runner import InlineRunner
from tests.api.conftest import Deployment
from tests.processes import until
from workers.contracts.events import Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results

TEXT = "Größe, naïve, 東京.\n\nWhat every layer reads, nobody needs.\n"
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()


def upload(http: TestClient, text: str | bytes = TEXT, name: str = "a.txt", **headers: str) -> Any:
    return http.post(
        "/v1/datasets", params={"name": name}, content=text, headers={"Content-Type": "text/plain", **headers}
    )


def pieces(*parts: bytes) -> Iterator[bytes]:
    yield from parts


def left_behind(deployment: Deployment) -> list[Path]:
    """Every file of the store that is no whole upload."""
    root = deployment.store.root
    return [file for file in root.rglob("*") if file.is_file() and "uploads" not in file.parts]


def stored(deployment: Deployment) -> list[str]:
    """Digests of the uploads in the store."""
    return sorted(file.name for file in (deployment.store.root / "uploads").rglob("*") if file.is_file())


def test_a_text_is_kept_by_digest(http: TestClient, deployment: Deployment) -> None:
    answer = upload(http)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["object"], made["name"], made["size_bytes"], made["sha256"]) == (
        "dataset", "a.txt", len(TEXT.encode()), DIGEST,
    )  # fmt: skip
    assert made["id"].startswith("dataset_") and answer.headers["Location"] == f"/v1/datasets/{made['id']}"
    assert http.get(answer.headers["Location"]).json() == made
    assert deployment.store.uploads.path_of(DIGEST).read_text("utf-8") == TEXT
    assert left_behind(deployment) == []


def test_the_same_bytes_again(http: TestClient, deployment: Deployment) -> None:
    first, again, other = upload(http), upload(http), upload(http, name="b.txt")
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 201]
    assert again.json() == first.json() and again.headers["Location"] == first.headers["Location"]
    assert other.json()["id"] != first.json()["id"] and other.json()["sha256"] == DIGEST
    assert stored(deployment) == [DIGEST]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_may_part_characters(http: TestClient, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("api.routes.datasets._PIECE_BYTES", size)
    raw = TEXT.encode()
    answer = upload(http, pieces(*(raw[start : start + size] for start in range(0, len(raw), size))))
    assert (answer.status_code, answer.json()["sha256"]) == (201, DIGEST)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([b"good ", b"\xe6\x9d", b"\xff more"], "at byte 5 "),
        ([b"good\xff"], "at byte 4 "),
        ([b"it ends in \xe6", b"\x9d"], "at byte 11 (unexpected end of data)"),
        ([b"\x1f\x8b\x08packed"], "at byte 1 "),
        ([b" \n", b"\t\n"], "holds no text"),
        ([b""], "holds no text"),
    ],
)
def test_what_is_no_text_is_refused_and_leaves_nothing(
    http: TestClient, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, parts: list[bytes], words: str
) -> None:
    monkeypatch.setattr("api.routes.datasets._PIECE_BYTES", 1)
    answer = upload(http, pieces(*parts))
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:dress:problem:invalid_text" and words in answer.json()["detail"]
    assert left_behind(deployment) == [] and stored(deployment) == []
    assert http.get("/v1/datasets").json()["data"] == []


@pytest.fixture
def narrow(deployment: Deployment, http: TestClient) -> Iterator[TestClient]:
    """A server that takes a hundred bytes."""
    settings = deployment.settings.model_copy(update={"dataset_most_bytes": 100})
    with TestClient(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {deployment.key}"
        yield client


def test_the_limit(narrow: TestClient, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.datasets._PIECE_BYTES", 10)
    assert upload(narrow, b"x" * 100).status_code == 201
    for too_much in (b"y" * 101, pieces(*[b"y" * 50] * 3)):  # told beforehand, and found while streaming
        answer = upload(narrow, too_much)
        assert answer.status_code == 413, answer.text
        assert answer.json()["type"] == "urn:dress:problem:body_too_large"
        assert "100 bytes" in answer.json()["detail"] and "DRESS_DATASET_MOST_BYTES" in answer.json()["detail"]
    assert left_behind(deployment) == [] and len(stored(deployment)) == 1


def test_more_than_other_bodies_may_have(http: TestClient) -> None:
    answer = upload(http, b"0123456789abcde\n" * 2**17)
    assert (answer.status_code, answer.json()["size_bytes"]) == (201, 2**21)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "text/plain; charset=latin-1"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_other_types_are_refused(http: TestClient, headers: dict[str, str]) -> None:
    answer = upload(http, TEXT, **headers)
    assert answer.status_code == 415 and "text/plain" in answer.json()["detail"]


def test_a_key_a_name_and_their_form_are_wanted(anonymous: TestClient, deployment: Deployment) -> None:
    assert upload(anonymous).status_code == 401
    headers = {"Authorization": f"Bearer {deployment.key}"}
    for name in ("", "a\nb", "x" * 256):
        refused = upload(anonymous, name=name, **headers)
        assert refused.status_code == 422 and refused.json()["errors"][0]["parameter"] == "name"
    assert stored(deployment) == []


def test_one_idempotency_key_one_data_set(http: TestClient, deployment: Deployment) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: upload(http, **{"Idempotency-Key": "once"}), range(8)))
    assert {answer.status_code for answer in answers} == {201} and len({answer.content for answer in answers}) == 1
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers].count(None) == 1
    assert len(http.get("/v1/datasets").json()["data"]) == 1
    for other in (
        upload(http, "else", **{"Idempotency-Key": "once"}),
        upload(http, name="b", **{"Idempotency-Key": "once"}),
    ):
        assert other.status_code == 422 and other.json()["type"].endswith(":idempotency_mismatch")
    assert stored(deployment) == [DIGEST] and left_behind(deployment) == []


def test_list_pages_and_filters(http: TestClient) -> None:
    ids = [upload(http, f"text {n}", name=f"{n % 2}.txt").json()["id"] for n in range(5)]
    first = http.get("/v1/datasets", params={"limit": 3}).json()
    last = first["data"][-1]["id"]
    assert http.delete(f"/v1/datasets/{last}").status_code == 204  # a place in the list outlives what stood there
    rest = http.get("/v1/datasets", params={"limit": 3, "after": last}).json()
    assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
    assert [each["id"] for each in first["data"] + rest["data"]] == ids[::-1]

    def found(**query: str) -> list[str]:
        return [each["id"] for each in http.get("/v1/datasets", params=query).json()["data"]]

    assert found(name="1.txt") == [ids[3], ids[1]]
    assert found(sha256=hashlib.sha256(b"text 4").hexdigest()) == [ids[4]]
    assert found(created_after="2999-01-01T00:00:00Z") == []
    assert http.get("/v1/datasets", params={"after": "dataset_0"}).status_code == 404


def test_deleting_takes_the_bytes_with_the_last(http: TestClient, deployment: Deployment) -> None:
    one, two = upload(http).json()["id"], upload(http, name="b.txt").json()["id"]
    assert http.delete(f"/v1/datasets/{one}").status_code == 204
    assert stored(deployment) == [DIGEST]
    assert http.get(f"/v1/datasets/{one}").status_code == http.delete(f"/v1/datasets/{one}").status_code == 404
    assert http.delete(f"/v1/datasets/{two}").status_code == 204
    assert stored(deployment) == []
    assert http.delete("/v1/datasets/nonsense").status_code == 404


@pytest.fixture
def using(http: TestClient, deployment: Deployment) -> tuple[str, dict[str, Any]]:
    """The id of a data set, and a recipe that uses it."""
    made = upload(http, TEXT * 50).json()["id"]
    text = {"name": "text", "dataset": made}
    data = {**text, "samples": 8, "sequence_length": 16}
    return made, {**deployment.recipe(), "data": data, "evaluate": {"perplexity": [{**text, "label": "own"}]}}


def test_a_data_set_in_use_stays(http: TestClient, deployment: Deployment, using: tuple[str, dict[str, Any]]) -> None:
    made, recipe = using
    job = http.post("/v1/jobs", json={"recipe": recipe}).json()
    digest = hashlib.sha256((TEXT * 50).encode()).hexdigest()
    assert job["recipe"]["data"]["dataset"] == job["recipe"]["evaluate"]["perplexity"][0]["dataset"] == made
    assert (
        job["recipe"]["data"]["dataset_sha256"]
        == job["recipe"]["evaluate"]["perplexity"][0]["dataset_sha256"]
        == digest
    )
    refused = http.delete(f"/v1/datasets/{made}")
    assert refused.status_code == 409 and job["id"] in refused.json()["detail"]
    held = deployment.lease(job["id"])
    assert http.delete(f"/v1/datasets/{made}").status_code == 409
    deployment.report(held, 1, Succeeded(results=Results()))
    assert http.delete(f"/v1/datasets/{made}").status_code == 204
    assert http.get(f"/v1/jobs/{job['id']}").json()["recipe"]["data"]["dataset_sha256"] == digest
    again = http.post("/v1/jobs", json={"recipe": recipe})
    assert again.status_code == 422
    assert again.json()["errors"][0]["pointer"] == "/recipe/data/dataset"


def test_a_recipe_may_be_submitted_as_it_was_stored(http: TestClient, using: tuple[str, dict[str, Any]]) -> None:
    recipe = http.post("/v1/jobs", json={"recipe": using[1]}).json()["recipe"]
    assert http.post("/v1/jobs", json={"recipe": recipe}).json()["recipe"] == recipe
    recipe["data"]["dataset_sha256"] = "0" * 64
    refused = http.post("/v1/jobs", json={"recipe": recipe})
    assert refused.status_code == 422 and refused.json()["errors"][0]["pointer"] == "/recipe/data/dataset_sha256"


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"data": {"name": "text", "dataset": "dataset_0"}}, "/recipe/data/dataset", "there is no data set dataset_0"),
        (
            {"evaluate": {"perplexity": ["ptb", {"name": "text", "dataset": "dataset_0"}]}},
            "/recipe/evaluate/perplexity/1/dataset",
            "POST /v1/datasets",
        ),
        ({"data": {"name": "text", "dataset": "data"}}, "/recipe/data/dataset", "the right form"),
        ({"data": {"name": "ptb", "dataset": "dataset_0"}}, "/recipe/data", "only the name `text`"),
        ({"data": {"name": "text", "dataset": "dataset_0", "path": "x"}}, "/recipe/data", "one of the two"),
        ({"data": {"name": "text"}}, "/recipe/data", "the id of an uploaded dataset"),
        ({"data": {"name": "text", "path": "x", "dataset_sha256": "0" * 64}}, "/recipe/data", "belongs to a dataset"),
    ],
)
def test_recipes_that_name_no_data_set(
    http: TestClient, deployment: Deployment, change: dict[str, Any], pointer: str, words: str
) -> None:
    body = {"recipe": {**deployment.recipe(), **change}}
    for path in ("/v1/jobs", "/v1/jobs:plan"):
        [item] = http.post(path, json=body).json()["errors"]
        assert item["pointer"] == pointer and words in item["detail"]


def test_lost_bytes_are_told_at_submission(
    http: TestClient, deployment: Deployment, using: tuple[str, dict[str, Any]]
) -> None:
    for digest in stored(deployment):
        deployment.store.uploads.discard(digest)
    refused = http.post("/v1/jobs", json={"recipe": using[1]})
    assert refused.status_code == 422 and "upload the file again" in refused.json()["errors"][0]["detail"]
    assert upload(http, TEXT * 50).status_code == 200, "the same bytes again heal the data set"
    assert http.post("/v1/jobs", json={"recipe": using[1]}).status_code == 201


def test_an_upload_and_a_file_share_stages(http: TestClient, deployment: Deployment, corpus: Path) -> None:
    """The keys of a plan are the same, whichever way the text comes."""
    here = deployment.model.parent
    keys = []
    for name in ("train.txt", "valid.txt"):
        (here / name).write_bytes((corpus / name).read_bytes())
    ids = [upload(http, (corpus / name).read_bytes(), name).json()["id"] for name in ("train.txt", "valid.txt")]
    for train, valid in (
        ({"path": str(here / "train.txt")}, {"path": str(here / "valid.txt")}),
        ({"dataset": ids[0]}, {"dataset": ids[1]}),
    ):
        data = {"name": "text", "samples": 8, "sequence_length": 16, **train}
        recipe = {**deployment.recipe(), "data": data, "evaluate": {"perplexity": [{"name": "text", **valid}]}}
        plan = http.post("/v1/jobs:plan", json={"recipe": recipe}).json()
        keys.append([stage["key"] for stage in plan["stages"]])
    assert keys[0] == keys[1] and None not in keys[0]


@pytest.mark.parametrize("backend", ["sqlite"])  # it trains a model, for seconds
def test_a_job_on_uploaded_texts_to_its_end(deployment: Deployment, recipe: Recipe, corpus: Path) -> None:
    """Trained and evaluated on uploads; the same by path finds every stage. On runs without Ray."""
    folders = (str(corpus), str(Path(recipe.model.source)))
    settings = deployment.settings.model_copy(update={"model_roots": folders, "data_roots": folders})
    dispatcher = Dispatcher(deployment.database, InlineRunner(cpus=1), deployment.store, settings)

    def run(http: TestClient, wanted: dict[str, Any]) -> tuple[dict[str, Any], list[bool]]:
        answer = http.post("/v1/jobs", json={"recipe": wanted})
        assert answer.status_code == 201, answer.text
        path = f"/v1/jobs/{answer.json()['id']}"
        until(lambda: dispatcher.tick() or http.get(path).json()["status"] in ("succeeded", "failed"), 120)
        told = http.get(f"{path}/events", params={"limit": 200}).json()["data"]
        return http.get(path).json(), [each["body"]["reused"] for each in told if each["type"] == "stage_finished"]

    with TestClient(create_app(settings)) as http:
        http.headers["Authorization"] = f"Bearer {settings.api_key_file.read_text('utf-8').strip()}"
        train, valid = (upload(http, (corpus / name).read_bytes(), name).json() for name in ("train.txt", "valid.txt"))
        plain = recipe.model_dump(mode="json")
        plain["data"] |= {"path": None, "dataset": train["id"]}
        plain["evaluate"]["perplexity"][0] |= {"path": None, "dataset": valid["id"]}
        done, reused = run(http, plain)
        assert done["status"] == "succeeded", done["error"]
        assert done["results"]["recovered"]["perplexity"]["valid"] > 1
        assert done["results"]["dense"]["perplexity_protocol"]["valid"]["text_sha256"] == valid["sha256"]
        by_path, reused_by_path = run(http, recipe.model_dump(mode="json"))
    assert by_path["results"]["recovered"] == done["results"]["recovered"]
    assert not any(reused) and reused_by_path == [True] * len(reused)


def test_a_full_disk_is_told(http: TestClient, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_stream: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workers.local_uploads.sync", full)
    answer = upload(http)
    assert answer.status_code == 507 and answer.json()["type"] == "urn:dress:problem:storage_full"
    assert str(deployment.store.root) not in answer.text
    assert left_behind(deployment) == [] and stored(deployment) == []
