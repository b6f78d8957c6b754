"""Jobs, for a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from api.queued import Queued, once, plain, read, submission
from api.schemas import Job, JobList


class Jobs(Queued[Job]):
    """What can be done with jobs."""

    root = "/v1/jobs"
    body = Job

    def submit(
        self,
        recipe: Mapping[str, Any] | BaseModel,
        *,
        metadata: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job. Repeated until answered, under one idempotency key, so that one call queues one job.

        Raises:
            Invalid: the recipe cannot be run; the error points at each fault.
        """
        body = submission(metadata, labels, priority, recipe=plain(recipe))
        return read(Job, self._client.send("POST", self.root, json=body, headers=once(idempotency_key)))

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
    ) -> JobList:
        """Jobs, newest first."""
        params = {"limit": limit, "after": after, "status": status, "label": label, "created_after": created_after}
        params |= {"fault": fault, "code": code}
        return read(JobList, self._client.send("GET", self.root, params=params))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; it may be `cancelling` for a while."""
        return self._told(job_id, "cancel")
