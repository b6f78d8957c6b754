"""The faults of a campaign: which comes when is drawn from a seed, and each is written down with what it hit."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from tests.faults.clients import Client, Service
from tests.faults.deployment import LEASE_SECONDS, Deployment, Part, Running, Shape
from tests.faults.history import Fact, History

Each = TypeVar("Each")

ASLEEP_SECONDS = 2.2 * LEASE_SECONDS
"""A stopped process is woken after two leases."""
FULL_SECONDS = 1.5
IN_FLIGHT = 20
"""With fewer jobs in the queue nothing is broken."""
AT_ONCE = 100
"""Posts with one key."""
_ODDS = {
    "kill_attempt": 36,
    "stop_attempt": 9,
    "kill_node": 5,
    "kill_dispatcher": 18,
    "stop_dispatcher": 8,
    "kill_api": 8,
    "lock_database": 3,
    "fill_disk": 5,
    "crowd": 1,
}
_OF_POSTGRESQL = {"crash_database": 6, "restart_database_thrice": 1, "stall_sessions": 4}
_OF_SQLITE = {"fill_database": 4}
_OF_CLOCKS = {"step_clock": 25}
_ENDING = frozenset({"kill_attempt", "kill_node", "fill_disk"})
"""After these an attempt cannot go on; after the others it can."""


@dataclass(frozen=True)
class Fault:
    """What the seed says."""

    number: int
    kind: str
    after: int
    """Comes after so many recorded steps of attempts."""
    choice: float
    """In [0, 1): which of those that could be hit."""
    delay_seconds: float


def odds(shape: Shape) -> dict[str, int]:
    """Kinds of faults that a deployment can suffer, and their weights."""
    of_database = _OF_POSTGRESQL if shape.database == "postgresql" else _OF_SQLITE
    return _ODDS | of_database | (_OF_CLOCKS if shape.stepped_clock else {})


def plan(seed: str, weights: dict[str, int], least: int, most: int) -> Iterator[Fault]:
    """Faults without end, each after `least` to `most` steps of attempts. Equal seeds give equal plans."""
    rng, number = random.Random(seed), 0
    while True:
        number += 1
        kind = rng.choices(list(weights), list(weights.values()))[0]
        yield Fault(number, kind, rng.randint(least, most), rng.random(), rng.uniform(0.0, 0.1))


class Injector:
    """Carries faults out. Belongs to one thread."""

    def __init__(
        self,
        deployment: Deployment,
        service: Service,
        told: History,
        until_told: Callable[[str], Fact | None],
        stages: Mapping[str, str],
    ) -> None:
        """`until_told` waits for the next fact of a kind, for a while; `stages` says in which stage an attempt is."""
        self._deployment, self._service, self._told, self._until_told = deployment, service, told, until_told
        self._stages = stages
        self._timers: list[threading.Timer] = []
        self._began: float | None = None

    def inject(self, fault: Fault) -> bool:
        """Whether it hit an attempt that ran."""
        running, in_flight = self._deployment.running()
        if in_flight < IN_FLIGHT:
            return False
        self._began = None
        hit = getattr(self, f"_{fault.kind}")(fault, running)
        if hit is None:
            return False
        self._told.add(
            "fault",
            kind=fault.kind,
            number=fault.number,
            jobs=[each.job_id for each in hit],
            attempts=[each.attempt_id for each in hit],
            stages=[self._stages.get(each.attempt_id) for each in hit],
            ends_attempt=fault.kind in _ENDING,
            in_flight=in_flight,
            at=self._began or time.time(),
        )
        return bool(hit)

    def finish(self) -> None:
        """Wake what is stopped, put right what passes."""
        for timer in self._timers:
            timer.join()
        if self._deployment.shape.stepped_clock:
            self._deployment.step_clock(0.0)

    def _kill_attempt(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        return self._signalled(fault, running, signal.SIGKILL)

    def _stop_attempt(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        return self._signalled(fault, running, signal.SIGSTOP)

    def _signalled(self, fault: Fault, running: list[Running], number: signal.Signals) -> list[Running] | None:
        there = self._deployment.workers()
        by_stage: dict[str, list[Running]] = defaultdict(list)
        for each in running:
            if each.attempt_id in there:
                by_stage[self._stages.get(each.attempt_id, "")].append(each)
        if not by_stage:
            return None
        # First a stage, then one of those in it: else the longest stage would be hit most.
        victim = random.Random(fault.choice).choice(by_stage[_chosen(sorted(by_stage), fault)])
        pid = there[victim.attempt_id]
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return None
        if number == signal.SIGSTOP:
            self._later(ASLEEP_SECONDS, partial(_wake, pid))
        return [victim]

    def _kill_node(self, _fault: Fault, running: list[Running]) -> list[Running] | None:
        self._deployment.kill_node()
        return running

    def _kill_dispatcher(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        found = self._leading(fault, running)
        if found is None:
            return None
        part, _, led = found
        self._deployment.kill(part)
        return led

    def _stop_dispatcher(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        found = self._leading(fault, running)
        if found is None:
            return None
        _, pid, led = found
        os.kill(pid, signal.SIGSTOP)
        self._later(ASLEEP_SECONDS, partial(_wake, pid))
        return led

    def _leading(self, fault: Fault, running: list[Running]) -> tuple[Part, int, list[Running]] | None:
        """One of the dispatchers that lead attempts, its process id, and those attempts."""
        led: list[tuple[Part, int, list[Running]]] = []
        for part in self._deployment.dispatchers:
            pid = part.process.pid if part.process is not None else -1
            mine = [each for each in running if each.dispatcher == pid]
            led += [(part, pid, mine)] if mine else []
        return _chosen(led, fault) if led else None

    def _kill_api(self, fault: Fault, _running: list[Running]) -> list[Running] | None:
        """In the middle of a post, or as soon as one is answered."""
        is_answered = fault.choice > 0.5
        post = self._until_told("posted" if is_answered else "post")
        if post is None:
            return None
        if not is_answered:
            threading.Event().wait(fault.delay_seconds)
        self._deployment.kill(self._deployment.apis[post["api"]])
        return []

    def _lock_database(self, _fault: Fault, running: list[Running]) -> list[Running] | None:
        """Somebody holds the lock of all writers for two leases."""
        held = threading.Event()
        threading.Thread(target=self._hold_lock, args=(held,)).start()
        return running if held.wait(ASLEEP_SECONDS) else None

    def _hold_lock(self, held: threading.Event) -> None:
        with suppress(SQLAlchemyError), self._deployment.database.connection() as connection:
            if self._deployment.cluster:
                connection.exec_driver_sql("LOCK TABLE jobs IN EXCLUSIVE MODE")
            held.set()
            threading.Event().wait(ASLEEP_SECONDS)

    def _fill_disk(self, _fault: Fault, running: list[Running]) -> list[Running] | None:
        self._deployment.full.touch()
        self._later(FULL_SECONDS, lambda: self._deployment.full.unlink(missing_ok=True))
        return running

    def _fill_database(self, _fault: Fault, running: list[Running]) -> list[Running] | None:
        self._deployment.database_full.touch()
        self._later(FULL_SECONDS, lambda: self._deployment.database_full.unlink(missing_ok=True))
        return running

    def _crowd(self, fault: Fault, _running: list[Running]) -> list[Running] | None:
        """Many posts at once under one key."""
        client = Client(f"crowd-{fault.number}", self._service, self._told, threading.Event(), str(fault.number))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda _: client.submit(client.name, fault.number), range(AT_ONCE)))
        return []

    def _crash_database(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        cluster = self._deployment.cluster
        assert cluster is not None
        cluster.stop(signal.SIGQUIT)
        self._began = self._began or time.time()
        threading.Event().wait(fault.choice)
        cluster.start()
        return running

    def _restart_database_thrice(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        for _ in range(3):
            self._crash_database(fault, running)
        return running

    def _stall_sessions(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        """PostgreSQL does not answer one dispatcher for two leases, as where a connection is only half open."""
        found = self._leading(fault, running)
        if found is None:
            return None
        part, _, led = found
        stalled = self._deployment.sessions(part)
        for pid in stalled:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._later(ASLEEP_SECONDS, partial(_wake, pid))
        return led if stalled else None

    def _step_clock(self, fault: Fault, running: list[Running]) -> list[Running] | None:
        """To between three seconds behind and six ahead."""
        self._deployment.step_clock(round(9 * fault.choice - 3, 3))
        return running

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        timer = threading.Timer(seconds, act)
        timer.start()
        self._timers.append(timer)


def _chosen(among: Sequence[Each], fault: Fault) -> Each:
    return among[int(fault.choice * len(among))]


def _wake(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
