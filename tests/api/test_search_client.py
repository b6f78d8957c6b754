"""Searches through the Python client: the same wire, with pages followed and nothing made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from api import search_client
from api.client import Client
from api.failures import InConflict, Invalid, Missing
from tests.api.conftest import Deployment
from workers.contracts.events import Succeeded
from workers.contracts.results import Results
from workers.contracts.search import Search


def test_a_search_from_submission_to_its_files(client: Client, deployment: Deployment, tmp_path: Path) -> None:
    search = client.searches.submit(deployment.search(), labels={"a": "b"}, metadata={"x": 1}, priority=1)
    assert (search.status, search.labels, search.metadata, search.priority) == ("queued", {"a": "b"}, {"x": 1}, 1)
    assert client.searches.submit(Search.model_validate(deployment.search())).status == "queued"
    assert [each.id for each in client.searches.list(label="a=b").data] == [search.id]
    deployment.try_out(search.id, Succeeded(results=Results()))
    followed = [event.type for event in client.searches.events(search.id, follow=True)]
    assert followed[0] == "job_queued" and followed[-1] == "job_succeeded"
    assert followed == [event.type for event in client.searches.events(search.id)]
    ended = client.searches.get(search.id, wait=0.1)
    assert ended.best is not None and ended.best.trial == 1 and ended.tally.ended == 4
    assert client.searches.trial(search.id, 3).values["perplexity.wikitext2"] == 9.0
    assert [attempt.outcome for attempt in client.searches.attempts(search.id)] == ["succeeded"]
    assert [file.path for file in client.searches.artifacts(search.id)] == ["trial-1/model/config.json"]
    [file] = client.searches.download(search.id, tmp_path / "out")
    assert file.read_bytes() == b"{}"
    with pytest.raises(InConflict):
        client.searches.stop(search.id)


def test_trials_are_paged_through(client: Client, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    search = client.searches.submit(deployment.search())
    assert list(client.searches.trials(search.id)) == []
    deployment.try_out(search.id)
    monkeypatch.setattr(search_client, "PAGE", 3)
    assert [trial.trial for trial in client.searches.trials(search.id)] == [1, 2, 3, 4]
    assert [trial.trial for trial in client.searches.trials(search.id, after=2)] == [3, 4]


def test_pause_resume_stop_and_promote(client: Client, deployment: Deployment) -> None:
    search = client.searches.submit(deployment.search())
    assert client.searches.pause(search.id).status == "paused"
    assert client.searches.resume(search.id).status == "queued"
    deployment.try_out(search.id)
    first, again = (client.searches.promote(search.id, 1, idempotency_key="k", labels={"a": "b"}) for _ in range(2))
    assert first.id == again.id and first.labels == {"a": "b", "search": search.id, "trial": "1"}
    assert client.jobs.pause(first.id).status == "paused"
    assert client.jobs.resume(first.id).status == "queued"
    with pytest.raises(Missing):
        client.searches.promote(search.id, 9)
    assert client.searches.stop(search.id).status == "cancelling"


def test_a_refusal_points_into_the_search(client: Client, deployment: Deployment) -> None:
    with pytest.raises(Invalid) as refused:
        client.searches.submit(deployment.search(objective="perplexity.ptb min"))
    assert [item.pointer for item in refused.value.problem.errors] == ["/search/objective"]
