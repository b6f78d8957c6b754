"""Runs attempts on the campaign's node. Several dispatchers share one, as they would share a cluster."""

from __future__ import annotations

import pickle
import selectors
import shutil
import socket
from pathlib import Path
from typing import Any

from service.dispatch.runner import Capacity, News, lost, read_answer
from tests.faults import node
from workers.actor import Order

_LONG_POLL_SECONDS = 20.0
_PATIENCE_SECONDS = 5.0
_GONE = (ConnectionRefusedError, FileNotFoundError)
"""Nobody listens there: the process is dead. Anything else means that it cannot be reached just now."""


class NodeRunner:
    """Implements `Runner`. A new node is started where the old one is dead."""

    def __init__(self, state: Path, cpus: int) -> None:
        self._state = state
        self._cpus = cpus
        self._node = node.ensure(state)
        self._places: dict[str, str] = {}
        self._asked: dict[str, socket.socket] = {}
        self._lost: set[str] = set()
        self._selector = selectors.DefaultSelector()

    def start(self, order: Order) -> None:
        """See `Runner.start`. On the node that we know: after another one has died, `recover` comes first."""
        _ask(f"{self._node.folder}/node", "start", order)
        self._places[order.attempt_id] = f"{self._node.folder}/{order.attempt_id}"

    def attach(self, attempt_id: str) -> bool:
        """See `Runner.attach`."""
        place = f"{self._present().folder}/{attempt_id}"
        try:
            _connect(place).close()
        except _GONE:
            return False
        except OSError:
            pass  # it is there, though it does not answer
        self._places[attempt_id] = place
        return True

    def follow(self, attempt_id: str, after: int) -> None:
        """See `Runner.follow`."""
        if attempt_id in self._asked:
            return
        if attempt_id not in self._places:
            self._lost.add(attempt_id)
            return
        try:
            asking = _connect(self._places[attempt_id])
        except _GONE:
            self._lost.add(attempt_id)
            return
        except OSError:
            return  # the next look asks again
        asking.sendall(pickle.dumps((after, _LONG_POLL_SECONDS)))
        self._asked[attempt_id] = asking
        self._selector.register(asking, selectors.EVENT_READ, attempt_id)

    def wait(self, seconds: float) -> list[News]:
        """See `Runner.wait`."""
        if self._lost:
            gone, self._lost = self._lost, set()
            return [lost(attempt_id) for attempt_id in gone]
        return [self._read(key.data) for key, _ in self._selector.select(seconds)]

    def stop(self, attempt_id: str) -> None:
        """See `Runner.stop`."""
        self._forget(attempt_id)
        self._places.pop(attempt_id, None)
        self._lost.discard(attempt_id)
        self._tell("stop", attempt_id)

    def attempts(self) -> set[str]:
        """See `Runner.attempts`."""
        return set(self._tell("attempts") or ())

    def free(self) -> Capacity:
        """See `Runner.free`."""
        there = self._tell("attempts")
        return Capacity(0.0 if there is None else float(self._cpus - len(there)), 0.0)

    def total(self) -> Capacity:
        """See `Runner.total`."""
        return Capacity(float(self._cpus), 0.0)

    def recover(self) -> bool:
        """See `Runner.recover`. Another dispatcher may have started the new node: ours are gone all the same."""
        if self._node.lives:
            return False
        shutil.rmtree(self._node.folder, ignore_errors=True)
        self.close()
        self._places.clear()
        self._node = node.ensure(self._state)
        return True

    def close(self) -> None:
        """See `Runner.close`."""
        self._lost.clear()
        for attempt_id in list(self._asked):
            self._forget(attempt_id)

    @staticmethod
    def look(there: node.Record) -> dict[str, int] | None:
        """The attempts on a node, and their process ids; None if it does not answer."""
        try:
            found: dict[str, int] = _ask(f"{there.folder}/node", "attempts")
        except (OSError, EOFError):
            return None
        return found

    def _present(self) -> node.Record:
        """The node that there is now, even if another dispatcher has started it and we have not noticed yet."""
        return node.recorded(self._state) or self._node

    def _tell(self, asked: str, *arguments: Any) -> Any:
        """The node's answer; None if there is none."""
        try:
            return _ask(f"{self._present().folder}/node", asked, *arguments)
        except (OSError, EOFError):
            return None

    def _forget(self, attempt_id: str) -> None:
        asking = self._asked.pop(attempt_id, None)
        if asking is not None:
            self._selector.unregister(asking)
            asking.close()

    def _read(self, attempt_id: str) -> News:
        asking = self._asked[attempt_id]
        try:
            with asking.makefile("rb") as stream:
                return read_answer(attempt_id, pickle.load(stream))
        except (OSError, EOFError):
            return News(attempt_id)  # if its process is gone, the next question will tell
        finally:
            self._forget(attempt_id)


def _connect(place: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(_PATIENCE_SECONDS)
    try:
        made.connect(place)
    except OSError:
        made.close()
        raise
    return made


def _ask(place: str, *question: Any) -> Any:
    with _connect(place) as asking, asking.makefile("rwb") as stream:
        stream.write(pickle.dumps(question))
        stream.flush()
        return pickle.load(stream)
