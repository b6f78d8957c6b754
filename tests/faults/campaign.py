"""A fault campaign: the whole service under faults drawn from a seed, its history held against the promises.

    python -m tests.faults.campaign --database sqlite --faults 2000 --seed 0 --state DIR

It goes in slices, each a deployment of its own with a history of its own, SLICE/history.jsonl under the state folder.
A slice that was broken off is run again; those that are whole are only judged. Every fourth slice steps the database's
clock, where safety alone is promised. Equal seeds give equal plans of faults: which kind, after how many recorded steps
of attempts, and which of those that could be hit.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from sqlalchemy import select

from service.database.tables import Job
from tests.faults import audit
from tests.faults.clients import ENDED, Client, service_at
from tests.faults.deployment import Deployment, Shape, url_of
from tests.faults.history import Fact, History, Tail, facts
from tests.faults.injector import IN_FLIGHT, Injector, odds, plan
from tests.faults.promises import Unfinished, Verdict, judged

CLIENTS = 26
OF_A_SLICE = 100
_TICK_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0


class Slice:
    """One deployment under faults, from its start to its end."""

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        seed: str,
        *,
        weights: dict[str, int] | None = None,
        after: tuple[int, int] = (4, 24),
        settle_seconds: float = 300.0,
    ) -> None:
        """Wants an empty folder.

        Args:
            weights: of the kinds of faults; else those that suit the deployment.
            after: how many recorded steps of attempts there are between two faults, at least and at most.
            settle_seconds: after the last fault, how long to wait for all jobs to end.
        """
        self._told = History(folder / "history.jsonl")
        self._tail = Tail(folder / "history.jsonl")
        self._steps = 0
        self._newest: list[Fact] = []
        self._stages: dict[str, str] = {}
        self._seed, self._after, self._settle_seconds = seed, after, settle_seconds
        self._weights = weights or odds(shape)
        self._deployment = Deployment(folder, shape, self._told)

    def run(self, faults: int) -> None:
        """So many faults that hit an attempt that ran; then all comes to its end."""
        try:
            self._deployment.start()
            self._attack(faults)
        finally:
            self._deployment.close()
            self._tail.close()
            self._told.close()

    def _attack(self, faults: int) -> None:
        deployment, no_more = self._deployment, threading.Event()
        key = deployment.settings.api_key_file.read_text("utf-8").strip()
        service = service_at([url_of(api) for api in deployment.apis], key, deployment.model)
        clients = [
            Client(f"client-{place}", service, self._told, no_more, f"{self._seed} client {place}")
            for place in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            self._inject(Injector(deployment, service, self._told, self._until_told, self._stages), faults)
            no_more.set()
            self._await(self._all_ended, self._settle_seconds)
        finally:
            no_more.set()
            for client in clients:
                client.give_up()
            for client in clients:
                client.join()
            service.http.close()
        self._read_out()

    def _inject(self, injector: Injector, faults: int) -> None:
        """Fault after fault, until so many have hit something."""
        self._await(lambda: self._deployment.running()[1] >= IN_FLIGHT)
        hits = 0
        for fault in plan(self._seed, self._weights, *self._after):
            if hits >= faults or not self._await(partial(self._has_stepped, self._steps + fault.after)):
                break
            hits += injector.inject(fault)
        injector.finish()

    def _read_out(self) -> None:
        """Wait for all workers to go, stop, and write down what is there."""
        deployment = self._deployment
        self._await(lambda: not deployment.workers(), _PATIENCE_SECONDS / 4)
        workers = sorted(deployment.workers())
        processes = deployment.stop()
        audit.read_out(deployment.database, self._told)
        for file in sorted((deployment.state / "artifacts" / "blobs").glob("*/*")):
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            self._told.add("file", sha256=file.name, digest=digest, size_bytes=len(content))
        self._told.add("end", workers=workers, processes=processes)

    def _has_stepped(self, awaited: int) -> bool:
        return self._steps >= awaited

    def _all_ended(self) -> bool:
        with self._deployment.database.reading() as session:
            return not session.scalars(select(Job.id).where(Job.status.notin_(ENDED)).limit(1)).all()

    def _until_told(self, what: str) -> Fact | None:
        """The next fact of a kind; None if none comes for some seconds."""
        found: list[Fact] = []

        def look() -> bool:
            found.extend(fact for fact in self._newest if fact["what"] == what)
            return bool(found)

        self._newest = []
        return found[0] if self._await(look, _PATIENCE_SECONDS / 12) else None

    def _await(self, condition: Callable[[], bool], seconds: float = _PATIENCE_SECONDS) -> bool:
        """Wait for it, keep the parts alive and read what the history says meanwhile; whether it came true."""
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while True:
            self._newest = self._tail.read()
            told = [fact for fact in self._newest if fact["what"] == "told"]
            self._steps += len(told)
            self._stages.update({fact["attempt"]: fact["stage"] for fact in told if "stage" in fact})
            for part in (*self._deployment.apis, *self._deployment.dispatchers):
                self._deployment.keep(part)
            if condition():
                return True
            if time.monotonic() > deadline:
                return False
            pause.wait(_TICK_SECONDS)


def run_slice(folder: Path, shape: Shape, seed: str, faults: int) -> Verdict:
    """The verdict on a slice: on what is there if it is whole, else on what it comes to now."""
    history = folder / "history.jsonl"
    try:
        return judged(facts(history), is_timed=not shape.stepped_clock)
    except (FileNotFoundError, Unfinished):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    Slice(folder, shape, seed).run(faults)
    verdict = judged(facts(history), is_timed=not shape.stepped_clock)
    if not verdict.broken:  # else whoever looks into it will want the rest
        for each in folder.iterdir():
            if each != history:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
    return verdict


def percentile(sorted_values: list[float], fraction: float) -> float:
    """The value below which this fraction lies."""
    return sorted_values[min(len(sorted_values) - 1, round(fraction * (len(sorted_values) - 1)))]


def report(verdicts: Iterable[Verdict]) -> str:
    """All that slices showed, in words."""
    verdicts = list(verdicts)
    counted: Counter[str] = sum((verdict.counted for verdict in verdicts), Counter())
    injected: Counter[str] = sum((verdict.faults for verdict in verdicts), Counter())
    lines = [
        f"{counted.total()} faults hit running attempts, {injected.total()} were injected; "
        f"{sum(each.jobs for each in verdicts)} jobs, {sum(each.attempts for each in verdicts)} attempts, "
        f"{sum(each.events for each in verdicts)} events, {sum(each.adoptions for each in verdicts)} adoptions, "
        f"{sum(each.replays for each in verdicts)} answers replayed"
    ]
    for kind in sorted(injected):
        times = sorted(seconds for each in verdicts for seconds in each.recoveries.get(kind, ()))
        line = f"  {kind}: {injected[kind]} injected, {counted[kind]} counted"
        lines.append(line + (f"; recovery {_times(times)}" if times else ""))
    everything = sorted(seconds for each in verdicts for times in each.recoveries.values() for seconds in times)
    if everything:
        lines.append(f"recovery {_times(everything)}")
    stages: Counter[str] = sum((verdict.stages for verdict in verdicts), Counter())
    lines.append("hit alone while in " + ", ".join(f"{stage}: {count}" for stage, count in stages.most_common()))
    flights = [each.least_in_flight for each in verdicts if each.least_in_flight is not None]
    if flights:
        lines.append(f"jobs in flight at a fault: at least {min(flights)}")
    return "\n".join([*lines, f"{sum(len(each.broken) for each in verdicts)} broken promises"])


def _times(times: list[float]) -> str:
    return (
        f"p50 {percentile(times, 0.5):.2f} s, p99 {percentile(times, 0.99):.2f} s, longest {times[-1]:.2f} s, "
        f"N {len(times)}"
    )


def run(
    state: Path, database: str, seed: int, faults: int, of_a_slice: int, seconds: float = math.inf, stepped: int = 4
) -> list[Verdict]:
    """Slices until so many faults have counted, or the time is over. In every `stepped`th the clock is."""
    began, counted, verdicts = time.monotonic(), 0, list[Verdict]()
    while counted < faults and time.monotonic() - began < seconds:
        number = len(verdicts) + 1
        shape = Shape(database=database, stepped_clock=number % stepped == 0)
        folder = state / f"{database}-{seed}-{number:04d}{'-stepped' if shape.stepped_clock else ''}"
        started = time.monotonic()
        verdict = run_slice(folder, shape, f"{seed}:{number}", min(of_a_slice, faults - counted))
        verdicts.append(verdict)
        counted += verdict.counted.total()
        print(
            f"slice {number} ({'stepped clock' if shape.stepped_clock else database}): {verdict.counted.total()} "
            f"faults, {time.monotonic() - started:.0f} s; {len(verdict.broken)} broken promises",
            *(f"  {told} ({folder / 'history.jsonl'})" for told in verdict.broken),
            sep="\n",
            flush=True,
        )
        if not verdict.counted:
            break  # nothing gets on any more, and so nothing can be hit
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--faults", type=int, default=2000, help="that hit a running attempt (default: %(default)s)")
    parser.add_argument("--of-a-slice", type=int, default=OF_A_SLICE, help="faults in one slice (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stepped-clock", action="store_true", help="step the clock in every slice, not every fourth")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further slice after so long")
    parser.add_argument("--state", type=Path, help="folder of the histories; given again, the campaign goes on")
    wanted = parser.parse_args()
    state = wanted.state or Path(tempfile.mkdtemp(prefix="dress-campaign-"))
    verdicts = run(
        state,
        wanted.database,
        wanted.seed,
        wanted.faults,
        wanted.of_a_slice,
        seconds=wanted.minutes * 60,
        stepped=1 if wanted.stepped_clock else 4,
    )
    print(report(verdicts))
    print(f"seed {wanted.seed}; histories in {state}")
    return 1 if any(verdict.broken for verdict in verdicts) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop; what is broken off will be run again"))
    sys.exit(main())
