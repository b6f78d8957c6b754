"""Waiting for what must happen, with a deadline and without sleeping."""

import time
from collections.abc import Callable


def eventually(happens: Callable[[], bool], act: Callable[[], object], seconds: float = 60.0) -> None:
    """Act until it happens. `act` waits by itself for what it acts upon."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        act()
