"""Upkeep, for a client: the retention policy, and the garbage of the artifact store."""

from __future__ import annotations

from typing import Any

from api.queued import Connection, read
from api.upkeep import GarbageReport, RetentionReport

UPKEEP_SECONDS = 600.0
"""A store of many files takes a while to look through."""


class Upkeep:
    """What keeps a deployment's store and database small."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def run_retention(self, *, dry_run: bool = False) -> RetentionReport:
        """Remove what the deployment's policy no longer keeps, or with `dry_run` only tell what that is.

        Raises:
            InConflict: upkeep is under way elsewhere.
        """
        return read(RetentionReport, self._client.send("POST", "/v1/retention:run", **_asked(dry_run)))

    def collect_garbage(self, *, dry_run: bool = False) -> GarbageReport:
        """Mark files that nothing refers to, and remove those marked a grace ago; with `dry_run` only tell which.

        Raises:
            InConflict: upkeep is under way elsewhere.
        """
        return read(GarbageReport, self._client.send("POST", "/v1/garbage:collect", **_asked(dry_run)))


def _asked(dry_run: bool) -> dict[str, Any]:
    return {"params": {"dry_run": "true" if dry_run else None}, "wait_seconds": UPKEEP_SECONDS}
