"""The queue at a glance, for a client."""

from __future__ import annotations

from api.queue_overview import QueueOverview
from api.queued import Connection, read


class Queue:
    """What can be asked of the queue as a whole."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def get(self, *, limit: int = 50, fault: str | None = None, code: str | None = None) -> QueueOverview:
        """What runs, waits, goes on and is dead; `fault` and `code` choose among the dead.

        Raises:
            Invalid: there is no such class of fault.
        """
        params = {"limit": limit, "fault": fault, "code": code}
        return read(QueueOverview, self._client.send("GET", "/v1/queue", params=params))
