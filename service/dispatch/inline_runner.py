"""Runs attempts in threads of the dispatcher's own process: for tests, and machines without Ray."""

import os
import threading
import time

from service.dispatch.runner import Capacity, News, lost, read_answer
from workers.actor import Order, Shell
from workers.contracts.recipe import Recipe, Resources


class InlineRunner:
    """Implements `Runner` without Ray. Several dispatchers may share one, as they would share a cluster.

    A thread cannot be killed: a stopped attempt ends at its next event, and is forgotten at once.
    """

    def __init__(self, cpus: float | None = None, gpus: float = 0.0) -> None:
        self._total = Capacity(float(cpus or os.cpu_count() or 1), gpus)
        self._changed = threading.Condition()
        self._shells: dict[str, Shell] = {}
        self._taken: dict[str, tuple[Resources, int]] = {}
        self._asked: dict[str, int] = {}

    def start(self, order: Order) -> None:
        """See `Runner.start`."""
        shell = Shell(order, self._changed)
        self._shells[order.attempt_id] = shell
        times = order.search.concurrency if order.search else 1
        self._taken[order.attempt_id] = Recipe.model_validate(order.recipe).resources, times
        shell.start()

    def attach(self, attempt_id: str) -> bool:
        """See `Runner.attach`."""
        return attempt_id in self._shells

    def follow(self, attempt_id: str, after: int) -> None:
        """See `Runner.follow`."""
        self._asked[attempt_id] = after

    def wait(self, seconds: float) -> list[News]:
        """See `Runner.wait`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (ready := self._ready()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                self._changed.wait(left)
        return [self._read(attempt_id, self._asked.pop(attempt_id)) for attempt_id in ready]

    def stop(self, attempt_id: str) -> None:
        """See `Runner.stop`."""
        self._asked.pop(attempt_id, None)
        self._taken.pop(attempt_id, None)
        shell = self._shells.pop(attempt_id, None)
        if shell is not None:
            shell.stop()

    def attempts(self) -> set[str]:
        """See `Runner.attempts`."""
        return set(self._shells)

    def free(self) -> Capacity:
        """See `Runner.free`."""
        free = self._total
        for resources, times in self._taken.values():
            free = free.minus(resources, times)
        return free

    def total(self) -> Capacity:
        """See `Runner.total`."""
        return self._total

    def recover(self) -> bool:
        """See `Runner.recover`. Threads are never lost without their process."""
        return False

    def close(self) -> None:
        """See `Runner.close`. The threads run on while the process lives."""
        self._asked.clear()

    def _ready(self) -> list[str]:
        return [attempt_id for attempt_id, after in self._asked.items() if self._answers(attempt_id, after)]

    def _answers(self, attempt_id: str, after: int) -> bool:
        """Whether there is something to say: events, or that nobody is there who could have any."""
        shell = self._shells.get(attempt_id)
        return shell is None or bool(shell.waiting_after(after))

    def _read(self, attempt_id: str, after: int) -> News:
        shell = self._shells.get(attempt_id)
        return lost(attempt_id) if shell is None else read_answer(attempt_id, shell.events(after, 0.0))
