"""Searches and their trials, for a client.

with Client("http://127.0.0.1:8000", api_key) as client:
    search = client.searches.submit({"base": recipe, "space": {"method.ratio": {"choice": [0.2, 0.3]}}, ...})
    for event in client.searches.events(search.id, follow=True):
        print(event.type)
    job = client.searches.promote(search.id, client.searches.get(search.id).best.trial)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from api.queued import PAGE, Queued, once, plain, read, submission
from api.schemas import Job
from api.searches import QueuedSearch, SearchList, Trial, TrialList


class Searches(Queued[QueuedSearch]):
    """What can be done with searches."""

    root = "/v1/searches"
    body = QueuedSearch

    def submit(
        self,
        search: Mapping[str, Any] | BaseModel,
        *,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> QueuedSearch:
        """Queue a search. Repeated until answered, under one idempotency key, so that one call queues one search.

        Raises:
            Invalid: the search cannot be run; the error points at each fault.
        """
        body = submission(metadata, labels, priority, search=plain(search))
        return read(QueuedSearch, self._client.send("POST", self.root, json=body, headers=once(idempotency_key)))

    def list(
        self,
        *,
        limit: int = 50,
        after: str | None = None,
        status: str | None = None,
        label: str | None = None,
        created_after: str | None = None,
        fault: str | None = None,
        code: str | None = None,
    ) -> SearchList:
        """Searches, newest first."""
        params = {"limit": limit, "after": after, "status": status, "label": label, "created_after": created_after}
        params |= {"fault": fault, "code": code}
        return read(SearchList, self._client.send("GET", self.root, params=params))

    def stop(self, search_id: str) -> QueuedSearch:
        """End a search now; what it has found stays. It may be `cancelling` for a while.

        Raises:
            InConflict: it has already ended by itself.
        """
        return self._told(search_id, "stop")

    def trials(self, search_id: str, *, after: int = 0) -> Iterator[Trial]:
        """The search's trials beyond number `after`, by number."""
        has_more = True
        while has_more:
            params = {"after": after, "limit": PAGE}
            page = read(TrialList, self._client.send("GET", f"{self._path(search_id)}/trials", params=params))
            yield from page.data
            has_more = page.has_more
            after = page.data[-1].trial if page.data else after

    def trial(self, search_id: str, number: int) -> Trial:
        """One trial."""
        return read(Trial, self._client.send("GET", self._trial_path(search_id, number)))

    def promote(
        self,
        search_id: str,
        number: int,
        *,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue the recipe of a trial as a job. One call queues one job.

        Raises:
            Missing: there is no such trial.
        """
        path = f"{self._trial_path(search_id, number)}:promote"
        body = submission(metadata, labels, priority)
        return read(Job, self._client.send("POST", path, json=body, headers=once(idempotency_key)))

    def _trial_path(self, search_id: str, number: int) -> str:
        return f"{self._path(search_id)}/trials/{number}"
