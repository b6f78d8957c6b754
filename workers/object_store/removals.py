"""Removals by age that race with renewals: neither can lock in an object store, but each can leave a mark.

Whoever removes leaves a mark first and looks at the age then; whoever renews does so first and looks for marks then. A
store that shows at once what was written lets one of the two see the other.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from workers.object_store.bucket import Bucket

DECIDE_SECONDS = 10.0
"""Between the look at the age and the removal."""
OUTWAIT_SECONDS = 60.0
"""A removal takes no longer, or whoever was at it is dead."""
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

    def outwaited(self, name: str) -> bool:
        """After a renewal: wait until nobody is about to remove it; whether there was somebody, so that it may be gone.

        Raises:
            Transient: the store does not answer.
        """
        marks = [each.path for each in self._bucket.listed(f"condemned/{name}")]
        if not marks:
            return False
        deadline = time.monotonic() + OUTWAIT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.5)  # an object store has no events to wait for
            if not list(self._bucket.listed(f"condemned/{name}")):
                return True
        self._bucket.delete(marks)
        return True

    def sweep(self, now_seconds: float) -> None:
        """Remove the marks of the dead."""
        found = self._bucket.listed("condemned")
        self._bucket.delete([each.path for each in found if now_seconds - each.modified_seconds > _STALE_SECONDS])
