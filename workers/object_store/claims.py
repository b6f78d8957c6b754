"""Claims on stages in an object store: each step of a claim's life is an object that only one can create."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass

from workers.object_store.bucket import Bucket, Stored

_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class _Claim:
    number: int
    owner: str | None
    """None: it was given up."""
    ttl_seconds: float


class Claims:
    """`claims/<key>/<number>`: the highest number holds. To claim, to prolong and to give up is to create the next.

    All that is asked of the store is that one of many succeeds in creating an object (`If-None-Match: *`). Whether a
    claim has run out is told by how long it has been seen unchanged, by one's own clock: nobody's clock must be right.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._seen: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def claim(self, key: str, owner: str, ttl_seconds: float) -> bool:
        """See `ArtifactStore.claim`."""
        held, older = self._held(key)
        if held is not None and held.owner not in (None, owner) and not self._has_run_out(key, held):
            return False
        return self._follow(key, held, older, owner, ttl_seconds)

    def release(self, key: str, owner: str) -> None:
        """See `ArtifactStore.release`."""
        held, older = self._held(key)
        if held is not None and held.owner == owner:
            # Not removed: who has just looked would otherwise begin again at a number that another may pass by.
            self._follow(key, held, older, None, 0.0)

    def sweep(self, now_seconds: float) -> None:
        """Remove claims that nobody has touched for a day."""
        stale = [each.path for each in self._bucket.listed("claims") if _is_stale(each, now_seconds)]
        self._bucket.delete(stale)

    def _held(self, key: str) -> tuple[_Claim | None, list[str]]:
        """The claim that counts, and all objects that lead up to it."""
        found = sorted(each.path for each in self._bucket.listed(f"claims/{key}"))
        if not found:
            return None, []
        number = int(found[-1].rpartition("/")[2])
        content = self._bucket.read(found[-1])
        try:
            told = json.loads(content or b"{}")  # gone meanwhile: the next is there already
            return _Claim(number, told["owner"], float(told["ttl_seconds"])), found
        except (KeyError, TypeError, ValueError):
            return _Claim(number, None, 0.0), found  # not ours to honour

    def _follow(self, key: str, held: _Claim | None, older: list[str], owner: str | None, ttl_seconds: float) -> bool:
        number = 0 if held is None else held.number + 1
        content = json.dumps({"owner": owner, "ttl_seconds": ttl_seconds}).encode()
        own = f"claims/{key}/{number:012d}"
        if not self._bucket.create(own, content):
            return False
        if max((each.path for each in self._bucket.listed(f"claims/{key}")), default=own) > own:
            # Others went on, and tidied up behind them, between our look and our step.
            self._bucket.delete([own])
            return False
        self._bucket.delete(older)
        return True

    def _has_run_out(self, key: str, held: _Claim) -> bool:
        now = time.monotonic()
        with self._lock:
            number, since = self._seen.get(key, (-1, now))
            if number != held.number:
                since = now
            self._seen[key] = held.number, since
        return now - since >= held.ttl_seconds


def _is_stale(claim: Stored, now_seconds: float) -> bool:
    return now_seconds - claim.modified_seconds > _STALE_SECONDS
