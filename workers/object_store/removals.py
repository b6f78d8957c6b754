"""Removals by age that race with renewals: neither can lock in an object store, but each can leave a mark.

Whoever removes leaves a mark first and looks at the age then; whoever renews does so first, then waits out all marks,
and then looks whether what was renewed is there. On a store that shows at once what was written, whoever marks later
sees the renewal; a mark that came before is waited for; one that went before it could be seen has left its work to see.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from workers.object_store.bucket import CONNECT_SECONDS, RETRY_SECONDS, SILENCE_SECONDS, Bucket

DECIDE_SECONDS = 10.0
"""Between the look at the age and the removal."""
OUTWAIT_SECONDS = DECIDE_SECONDS + RETRY_SECONDS + CONNECT_SECONDS + SILENCE_SECONDS
"""A removal takes no longer, however often it is tried, or whoever was at it is dead."""
_STALE_SECONDS = 3600.0

log = logging.getLogger(__name__)


class Removals:
    """`condemned/<name>/…` are the marks of those who are about to remove what has this name."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def remove(
        self, name: str, paths: list[str], renewed_seconds: Callable[[], float | None], age_seconds: float
    ) -> bool:
        """Remove objects unless they were renewed within this time; whether they were removed.

        Args:
            renewed_seconds: tells when they were renewed last, by the store's clock; None if there are none.

        Raises:
            Transient: the store does not answer.
        """
        mark = f"condemned/{name}/{uuid.uuid4().hex}"
        self._bucket.write(mark, b"")
        began = time.monotonic()
        try:
            marked = self._bucket.look(mark)  # tells the store's own time: no other clock is asked
            renewed = renewed_seconds()
            if marked is None or renewed is None or marked.modified_seconds - renewed < age_seconds:
                return False
            if time.monotonic() - began > DECIDE_SECONDS:
                log.warning("%s: %s is left for another time: the store is slow", self._bucket.url, name)
                return False
            self._bucket.delete(paths)
            return True
        finally:
            self._bucket.delete(mark)

    def outwait(self, name: str) -> None:
        """After a renewal: wait until nobody is about to remove it. Look then whether it is there: it may have gone.

        Raises:
            Transient: the store does not answer.
        """
        deadline = time.monotonic() + OUTWAIT_SECONDS
        while marks := [each.path for each in self._bucket.listed(f"condemned/{name}")]:
            if time.monotonic() >= deadline:
                self._bucket.delete(marks)
                return
            time.sleep(0.5)  # an object store has no events to wait for

    def sweep(self, now_seconds: float) -> None:
        """Remove the marks of the dead."""
        found = self._bucket.listed("condemned")
        self._bucket.delete([each.path for each in found if now_seconds - each.modified_seconds > _STALE_SECONDS])
