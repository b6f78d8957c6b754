"""Searches over HTTP: durable, idempotent, listed, waited for, stopped, paused; their trials, and jobs made of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.search_answers import Pace, eta_seconds
from api.searches import EXAMPLE_SPEC
from service import queue
from tests.api.conftest import Deployment
from workers.contracts.events import Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.contracts.search import Search
from workers.contracts.trials import TrialProgressed, TrialProposed


def _post(http: TestClient, search: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/searches", json={"search": search, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_submit_answers_with_the_whole_search(http: TestClient, deployment: Deployment) -> None:
    body = {"search": deployment.search(), "metadata": {"note": 1}, "labels": {"team": "a"}, "priority": 3}
    answer = http.post("/v1/searches", json=body)
    search = answer.json()
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/searches/{search['id']}"
    assert (search["object"], search["status"], search["id"][:7]) == ("search", "queued", "search_")
    assert (search["metadata"], search["labels"], search["priority"]) == ({"note": 1}, {"team": "a"}, 3)
    assert Search.model_validate(search["search"]).model_dump(mode="json") == search["search"], "every default"
    assert (search["best"], search["frontier"], search["trials_at_most"], search["eta_seconds"]) == (None, [], 4, None)
    assert search["tally"] == dict.fromkeys(("running", "waiting", "succeeded", "failed", "stopped"), 0)
    work = {"spent_seconds": 0.0, "avoided_seconds": 0.0, "avoided_fraction": None, "gpu_seconds": 0.0}
    assert search["work"] == {**work, "avoided_by_stage": {}}
    seen = http.get(answer.headers["Location"])
    assert seen.json() == search and seen.headers["ETag"] == answer.headers["ETag"]
    assert http.get("/v1/jobs").json()["data"] == [], "a search is no job"
    assert http.get(f"/v1/jobs/{search['id']}").status_code == 404


def test_the_example_is_a_search() -> None:
    search = Search.model_validate(EXAMPLE_SPEC)
    assert search.recipe_at({"method.ratio": 0.25}).model.source == "meta-llama/Llama-2-7b-hf"


def test_one_idempotency_key_one_search(http: TestClient, deployment: Deployment) -> None:
    headers = {"Idempotency-Key": "once"}

    def post(_: int) -> Any:
        return http.post("/v1/searches", json={"search": deployment.search()}, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1, "replayed byte for byte"
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers].count(None) == 1
    assert len(http.get("/v1/searches").json()["data"]) == 1
    other = http.post("/v1/searches", json={"search": deployment.search(trials=5)}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "urn:dress:problem:idempotency_mismatch")
    job = http.post("/v1/jobs", json={"recipe": deployment.recipe()}, headers=headers)
    assert job.status_code == 422, "another request, whatever its path"


def test_the_words_of_a_search_file_are_understood(http: TestClient, deployment: Deployment) -> None:
    space = {"method.strength": "loguniform(1e-5, 1e-1)", "method.ratio": "choice(0.25, 0.5)"}
    words = {"space": space, "objective": "perplexity.wikitext2 min", "scheduler": "asha"}
    search = _post(http, deployment.search(constraints=["parameters <= 0.75 dense"], **words))["search"]
    assert search["space"]["method.ratio"]["choice"] == [0.25, 0.5]
    assert (search["scheduler"]["kind"], search["constraints"][0]["at_most"]) == ("asha", 0.75)


def test_an_uploaded_text_is_told_by_digest_too(http: TestClient, deployment: Deployment) -> None:
    dataset = http.post("/v1/datasets?name=a", content="A text.").json()
    search = deployment.search()
    data = {"name": "text", "dataset": dataset["id"]}
    made = _post(http, {**search, "base": {**search["base"], "data": data}})
    assert made["search"]["base"]["data"]["dataset_sha256"] == dataset["sha256"]
    in_use = http.delete(f"/v1/datasets/{dataset['id']}")
    assert in_use.status_code == 409 and made["id"] in in_use.json()["detail"]


def test_list_pages_and_filters(http: TestClient, deployment: Deployment) -> None:
    ids = [_post(http, deployment.search(), labels={"n": str(n % 2)})["id"] for n in range(5)]
    http.post(f"/v1/searches/{ids[0]}:stop")
    first = http.get("/v1/searches", params={"limit": 3}).json()
    rest = http.get("/v1/searches", params={"limit": 3, "after": first["data"][-1]["id"]}).json()
    assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
    assert [search["id"] for search in first["data"] + rest["data"]] == ids[::-1]

    def found(**query: str) -> list[str]:
        return [search["id"] for search in http.get("/v1/searches", params=query).json()["data"]]

    assert found(status="cancelled") == [ids[0]]
    assert found(label="n=1") == [ids[3], ids[1]]
    assert found(created_after="2999-01-01T00:00:00Z") == []


def test_what_a_search_has_found(http: TestClient, search_id: str, deployment: Deployment) -> None:
    deployment.try_out(search_id)
    search = http.get(f"/v1/searches/{search_id}").json()
    best, other = {"perplexity.wikitext2": 7.5, "parameters": 750.0}, {"perplexity.wikitext2": 9.0, "parameters": 500.0}
    assert (search["best"]["trial"], search["best"]["values"]) == (1, best)
    assert Recipe.model_validate(search["best"]["recipe"]).method.ratio == 0.25
    assert search["frontier"] == [{"trial": 1, "values": best}, {"trial": 3, "values": other}]
    assert search["tally"] == {"running": 0, "waiting": 0, "succeeded": 2, "failed": 1, "stopped": 1}
    work = search["work"]
    assert (work["spent_seconds"], work["avoided_seconds"], work["gpu_seconds"]) == (23.0, 12.0, 10.0)
    assert work["avoided_fraction"] == pytest.approx(12 / 35)
    assert work["avoided_by_stage"] == {"evaluate dense": 12.0}
    assert search["eta_seconds"] == 0.0, "none is left"


def test_the_end_is_foreseen_by_the_trials_that_ended(http: TestClient, deployment: Deployment) -> None:
    search_id = _post(http, deployment.search(trials=10))["id"]
    held = deployment.try_out(search_id)
    assert http.get(f"/v1/searches/{search_id}").json()["eta_seconds"] == pytest.approx(23 / 4 * 6 / 2)
    proposed = TrialProposed(trial=5, point={"method.strength": 1e-3, "method.ratio": 0.5})
    deployment.report(
        held, 11, proposed, TrialProgressed(trial=5, stage="regularize", fraction=0.5, seconds=99.0)
    )  # fmt: skip
    search = http.get(f"/v1/searches/{search_id}").json()
    assert search["eta_seconds"] == pytest.approx(23 / 4 * 5.5 / 2), "what is done of the next one is not left"
    assert search["tally"]["running"] == 1 and search["work"]["spent_seconds"] == pytest.approx(122.0)
    [*_, last] = http.get(f"/v1/searches/{search_id}/trials").json()["data"]
    assert (last["status"], last["progress"]["fraction"], last["seconds"]) == ("running", 0.5, None)
    http.post(f"/v1/searches/{search_id}:pause")
    assert http.get(f"/v1/searches/{search_id}").json()["eta_seconds"] is None


@pytest.mark.parametrize(
    ("changes", "pace", "ended", "seconds"),
    [
        ({}, {"mean_seconds": None}, 0, None),
        ({}, {}, 1, 15.0),
        ({}, {}, 3, 10.0),
        ({"concurrency": 8}, {}, 1, 10.0),
        ({"budget": {"wall_hours": 1 / 60}}, {"wall_seconds": 50.0}, 1, 10.0),
        ({"budget": {"wall_hours": 1 / 60}}, {"wall_seconds": 70.0}, 1, 0.0),
        ({"budget": {"gpu_hours": 1 / 60}}, {"gpu_seconds": 50.0, "gpus": 1}, 1, 5.0),
        ({"budget": {"gpu_hours": 1 / 60}}, {"gpu_seconds": 50.0, "gpus": 0}, 1, 15.0),
    ],
)
def test_the_time_that_is_left(
    deployment: Deployment, changes: dict[str, Any], pace: dict[str, Any], ended: int, seconds: float | None
) -> None:
    search = Search.model_validate(deployment.search(**changes))
    known = {"mean_seconds": 10.0, "under_way": 0.0, "wall_seconds": 0.0, "gpu_seconds": 0.0, "gpus": 0, **pace}
    found = eta_seconds(search, Pace(**known), ended)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_trials_page_by_number(http: TestClient, search_id: str, deployment: Deployment) -> None:
    deployment.try_out(search_id)
    url = f"/v1/searches/{search_id}/trials"
    everything = http.get(url).json()
    first, rest = http.get(url, params={"limit": 3}).json(), http.get(url, params={"after": 3}).json()
    assert [trial["trial"] for trial in everything["data"]] == [1, 2, 3, 4]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert first["data"] + rest["data"] == everything["data"]
    assert http.get(f"{url}/3").json() == everything["data"][2]
    for path in (f"{url}/5", "/v1/searches/search_0/trials", "/v1/searches/search_0/trials/1"):
        assert http.get(path).status_code == 404
    assert http.get(f"{url}/none").status_code == 422


def test_what_a_trial_tells(http: TestClient, deployment: Deployment) -> None:
    search_id = _post(http, deployment.search(scheduler="asha"))["id"]
    deployment.try_out(search_id)
    first, second, third, fourth = http.get(f"/v1/searches/{search_id}/trials").json()["data"]
    assert (first["object"], first["search_id"], first["status"], first["feasible"]) == (
        "trial", search_id, "succeeded", True,
    )  # fmt: skip
    assert first["point"] == {"method.strength": 0.001, "method.ratio": 0.25}
    assert first["values"] == {"perplexity.wikitext2": 7.5, "parameters": 750.0}
    assert first["results"]["pruned"] == {"parameters": 750, "perplexity": {"wikitext2": 7.5}}
    assert (first["progress"], first["seconds"], first["ended_as"]) == (None, 10.0, 1)
    [report] = second["reports"]
    assert report == {"rung": 0, "fraction": pytest.approx(1 / 9), "value": 3.5, "decision": "stop"}
    assert (second["reason"], second["error"], second["values"]) == ("not among the best", None, {})
    assert (third["avoided_seconds"], third["avoided_by_stage"]) == (12.0, {"evaluate dense": 12.0})
    assert (fourth["error"]["code"], fourth["error"]["message"]) == ("diverged", "the loss is gone")
    assert fourth["reason"] is None and fourth["ended_at"] >= fourth["created_at"]


def test_a_trial_that_its_search_gave_up(http: TestClient, deployment: Deployment) -> None:
    search_id = _post(http, deployment.search(trials=5))["id"]
    held = deployment.try_out(search_id)
    proposed = TrialProposed(trial=5, point={"method.strength": 1e-3, "method.ratio": 0.5})
    deployment.report(held, 11, proposed, TrialProgressed(trial=5, stage="basis", fraction=0.5, seconds=7.0))
    http.post(f"/v1/searches/{search_id}:stop")
    with deployment.database.writing() as session:
        queue.finish_stopping(session, held)
    search = http.get(f"/v1/searches/{search_id}").json()
    assert (search["status"], search["tally"]["stopped"], search["best"]["trial"]) == ("cancelled", 2, 1)
    given_up = http.get(f"/v1/searches/{search_id}/trials/5").json()
    assert (given_up["status"], given_up["seconds"], given_up["progress"]) == ("stopped", 7.0, None)
    assert "its search ended" in given_up["reason"] and given_up["ended_as"] is None


def test_wait_and_etag(http: TestClient, search_id: str, deployment: Deployment) -> None:
    url = f"/v1/searches/{search_id}"
    etag = http.get(url).headers["ETag"]
    assert http.get(url, headers={"If-None-Match": etag}).status_code == 304
    assert http.get(url, params={"wait": 0.2}, headers={"If-None-Match": etag}).status_code == 304
    change = threading.Timer(0.3, deployment.try_out, [search_id])
    change.start()
    began = time.monotonic()
    answer = http.get(url, params={"wait": 30}, headers={"If-None-Match": etag})
    assert answer.json()["status"] == "running" and time.monotonic() - began < 5
    change.join()


def test_stop_keeps_what_was_found(http: TestClient, search_id: str, deployment: Deployment) -> None:
    deployment.try_out(search_id)
    stopped = http.post(f"/v1/searches/{search_id}:stop")
    assert stopped.json()["status"] == "cancelling" and stopped.headers["ETag"]
    assert http.get(f"/v1/searches/{search_id}").json()["best"]["trial"] == 1
    waiting = _post(http, deployment.search())["id"]
    assert http.post(f"/v1/searches/{waiting}:stop").json()["status"] == "cancelled"
    ended = _post(http, deployment.search())["id"]
    deployment.try_out(ended, Succeeded(results=Results()))
    refused = http.post(f"/v1/searches/{ended}:stop")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:dress:problem:conflict")
    assert http.post("/v1/searches/search_0:stop").status_code == 404


@pytest.mark.parametrize("kind", ["searches", "jobs"])
def test_pause_and_resume(http: TestClient, search_id: str, job_id: str, deployment: Deployment, kind: str) -> None:
    owner = {"searches": search_id, "jobs": job_id}[kind]
    paused = http.post(f"/v1/{kind}/{owner}:pause")
    assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert http.post(f"/v1/{kind}/{owner}:pause").status_code == 200, "it is already"
    resumed = http.post(f"/v1/{kind}/{owner}:resume")
    assert resumed.json()["status"] == "queued" and resumed.headers["ETag"] != paused.headers["ETag"]
    deployment.lease(owner)
    assert http.post(f"/v1/{kind}/{owner}:pause").json()["status"] == "pausing"
    for word in ("pause", "resume"):
        assert http.post(f"/v1/{kind}/{owner[:4]}_0:{word}").status_code == 404
    other = _post(http, deployment.search())["id"]
    assert http.post(f"/v1/jobs/{other}:pause").status_code == 404, "a search is no job"
    http.post(f"/v1/searches/{other}:stop")
    assert http.post(f"/v1/searches/{other}:resume").status_code == 409


def test_events_attempts_and_artifacts(http: TestClient, search_id: str, deployment: Deployment) -> None:
    deployment.try_out(search_id, Succeeded(results=Results()))
    url = f"/v1/searches/{search_id}"
    events = http.get(f"{url}/events").json()["data"]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert {event["job_id"] for event in events} == {search_id} and events[0]["id"].startswith("evt_0")
    stream = http.get(f"{url}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "1"})
    assert stream.text.count("\nid: ") == len(events) - 1 and "event: trial_finished" in stream.text
    over = http.get(f"{url}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": str(len(events))})
    assert over.status_code == 204
    [attempt] = http.get(f"{url}/attempts").json()["data"]
    assert (attempt["job_id"], attempt["outcome"]) == (search_id, "succeeded")
    [file] = http.get(f"{url}/artifacts").json()["data"]
    assert (file["path"], file["href"]) == (
        "trial-1/model/config.json", f"{url}/artifacts/trial-1/model/config.json",
    )  # fmt: skip
    assert http.get(file["href"]).content == b"{}"
    assert f"see {url}/artifacts" in http.get(f"{url}/artifacts/%00").json()["detail"]
    for part in ("events", "attempts", "artifacts", "artifacts/x"):
        assert http.get(f"/v1/searches/search_0/{part}").status_code == 404
        assert http.get(f"/v1/jobs/{search_id}/{part}").status_code == 404, "a search is no job"


def test_promote(http: TestClient, search_id: str, deployment: Deployment) -> None:
    deployment.try_out(search_id)
    url = f"/v1/searches/{search_id}/trials/1:promote"
    answer = http.post(url)
    job = answer.json()
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}" and answer.headers["ETag"]
    assert job["labels"] == {"search": search_id, "trial": "1"} and job["status"] == "queued"
    assert (job["recipe"]["method"]["strength"], job["recipe"]["method"]["ratio"]) == (0.001, 0.25)
    asked = {"labels": {"team": "a", "trial": "9"}, "metadata": {"x": 1}, "priority": 2}
    job = http.post(url, json=asked).json()
    assert job["labels"] == {"team": "a", "search": search_id, "trial": "1"}
    assert (job["metadata"], job["priority"]) == ({"x": 1}, 2)
    assert http.post(f"/v1/searches/{search_id}/trials/9:promote").status_code == 404
    assert http.post(url, json={"label": {}}).json()["errors"][0]["detail"].endswith("did you mean `labels`?")


def test_promoting_once(http: TestClient, search_id: str, deployment: Deployment) -> None:
    deployment.try_out(search_id)
    headers = {"Idempotency-Key": "once"}
    url = f"/v1/searches/{search_id}/trials/1:promote"
    first, again = http.post(url, headers=headers), http.post(url, headers=headers)
    assert first.content == again.content and again.headers["Idempotent-Replayed"] == "true"
    other = http.post(f"/v1/searches/{search_id}/trials/3:promote", headers=headers)
    assert other.status_code == 422 and len(http.get("/v1/jobs").json()["data"]) == 1


def test_a_trial_whose_model_is_gone_is_not_promoted(
    http: TestClient, search_id: str, deployment: Deployment
) -> None:  # fmt: skip
    deployment.try_out(search_id)
    deployment.model.rename(deployment.model.with_name("elsewhere"))
    refused = http.post(f"/v1/searches/{search_id}/trials/1:promote")
    assert refused.status_code == 422 and "model.source" in refused.json()["detail"]
    assert "errors" not in refused.json() or refused.json()["errors"] == []
