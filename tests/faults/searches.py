"""A campaign against searches: real dispatcher, real Ray, real Tune; killed at random times, checked afterwards.

    python -m tests.faults.searches --searches 10 --seed 0

Each search has its dispatcher, its actor, a trial's worker or the whole Ray cluster killed (SIGKILL) at times drawn
from the seed, until it has ended. Then its record is read and held against the promises:

- lost: every search ends as succeeded, with as many trials as it asked for, each ended once, and numbers without a gap;
- repeated: no trial begins in any process after its end was recorded;
- changed: what was recorded of a trial (point, reports, decisions, end) is the same in every later look;
- differing: at concurrency 1 trials, decisions and best are those of the same search undisturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from service import events, searches
from service.database.schema import upgrade
from service.database.session import Database
from service.dispatch import local_ray
from service.settings import Settings
from tests.faults.slow_pipeline import LOG
from tests.workers.searching.searches import facts, run_through
from tests.workers.searching.searches import search as made
from workers.contracts.search import Search
from workers.contracts.trials import SearchRecord
from workers.searching.ranking import best

FAULTS = ("actor", "trial", "dispatcher", "cluster")

_LONGEST_SECONDS = 600.0


@dataclass
class Verdict:
    """What the checker says of one search."""

    name: str
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    """Promises that were not kept, in words."""
    attempts: int = 0
    trials: int = 0
    seconds: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each fault to the next event that was recorded."""


class Deployment:
    """A state folder, a dispatcher process, and the local Ray that it starts."""

    def __init__(self, folder: Path, pipeline: str = "tests.faults.slow_pipeline:run", **environment: str) -> None:
        self.settings = Settings(state_dir=folder / "state")
        self.log = folder / "trials.jsonl"
        self.log.touch()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DRESS_", "RAY_"))},
            "DRESS_STATE_DIR": str(self.settings.state_dir),
            "DRESS_PIPELINE": pipeline,
            "DRESS_LEASE_SECONDS": "2",
            "DRESS_HEARTBEAT_SECONDS": "0.5",
            "DRESS_RETRY_SECONDS": "0.1",
            "DRESS_MAX_ATTEMPTS": "1000",  # the campaign may kill without end what has not got further
            "PYTHONPATH": str(Path(__file__).parents[2]),
            LOG: str(self.log),
            **environment,
        }
        self.settings.state_dir.mkdir(parents=True)
        self.database = Database(self.settings.database_url)
        upgrade(self.database)
        self._dispatcher: subprocess.Popen[bytes] | None = None

    def keep_dispatching(self) -> None:
        """Start the dispatcher unless it lives."""
        if self._dispatcher is None or self._dispatcher.poll() is not None:
            with (self.settings.state_dir / "dispatch.log").open("ab") as log:
                command = [sys.executable, "-m", "service.dispatch"]
                self._dispatcher = subprocess.Popen(command, env=self._environment, stderr=log)

    def end(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.kill()
            self._dispatcher.wait()
        local_ray.stop(self.settings.state_dir)
        self.database.dispose()

    def kill(self, what: str) -> bool:
        """Kill it; False if there is none just now."""
        if what == "dispatcher":
            if self._dispatcher is None or self._dispatcher.poll() is not None:
                return False
            self._dispatcher.kill()
            self._dispatcher.wait()
            return True
        head = local_ray.recorded(self.settings.state_dir)
        if head is None or not local_ray.is_alive(head):
            return False
        if what == "cluster":
            os.kill(head.pid, signal.SIGKILL)
            return True
        title = "ray::AttemptActor" if what == "actor" else "ray::ResourceTrainable"
        victims = [each for each in psutil.process_iter() if _title(each).startswith(title) and _of(each, head.pid)]
        for victim in victims[:1]:
            victim.kill()
        return bool(victims)

    def submit(self, search: Search) -> str:
        recipe = search.recipe_at(next(search.probes())[1])
        with self.database.writing() as session:
            return searches.submit(session, search=search, recipe=recipe, metadata={}, labels={}, priority=0).id

    def record(self, search_id: str) -> tuple[str, int, int, SearchRecord]:
        """Status, attempts, number of the last event, record."""
        with self.database.reading() as session:
            job, _ = searches.get(session, search_id)
            return job.status, job.attempts, job.last_event, searches.record(session, search_id)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _of(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def searches_of(count: int, trials: int) -> Iterator[tuple[str, Search]]:
    """Searches of all kinds in turn."""
    asha = {"kind": "asha", "reduction": 2, "first_fraction": 0.2}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("tpe, asha", {"scheduler": asha}),
        ("grid of two fields", {"algorithm": "grid", "space": {"method.strength": {"choice": [1e-4, 1e-3]},
                                "method.ratio": {"choice": [0.2, 0.4]}}}),
        ("tpe, asha, two at once", {"scheduler": asha, "concurrency": 2}),
        ("random, median", {"algorithm": "random", "scheduler": {"kind": "median", "least_trials": 2}}),
        ("nsga2 over ratios", {"algorithm": "nsga2", "space": {"method.strength": "loguniform(1e-5, 1e-1)",
                               "method.ratio": "uniform(0.1, 0.6)"}, "constraints": ["parameters <= 0.8"]}),
    ]  # fmt: skip
    for place in range(count):
        name, changes = kinds[place % len(kinds)]
        yield f"{place + 1}: {name}", made(**{"trials": trials, "seed": place, **changes})


def disturbed(deployment: Deployment, name: str, search: Search, rng: random.Random, most: int) -> Verdict:
    """Run one search to its end while at most so many faults hit it, and judge it."""
    verdict, began = Verdict(name), time.monotonic()
    search_id = deployment.submit(search)
    seen: dict[int, Any] = {}
    pause = threading.Event()
    next_fault = began + rng.uniform(1, 6)
    hit_at, event_then = None, 0
    while time.monotonic() - began < _LONGEST_SECONDS:
        deployment.keep_dispatching()
        status, verdict.attempts, last_event, record = deployment.record(search_id)
        if hit_at is not None and last_event > event_then:
            verdict.recoveries.append(time.monotonic() - hit_at)
            hit_at = None
        verdict.broken += changed_since(seen, record)
        if status not in ("queued", "running"):
            break
        now = time.monotonic()
        if now >= next_fault and status == "running" and verdict.faults.total() < most and hit_at is None:
            what = rng.choices(FAULTS, weights=(4, 4, 2, 1))[0]
            if deployment.kill(what):
                verdict.faults[what] += 1
                hit_at, event_then = time.monotonic(), last_event
            next_fault = now + rng.uniform(1, 6)
        pause.wait(0.1)
    verdict.seconds, verdict.trials = time.monotonic() - began, len(record.trials)
    verdict.broken += judged(deployment, search_id, search, status, record)
    return verdict


def changed_since(seen: dict[int, Any], record: SearchRecord) -> Iterator[str]:
    """What a look finds otherwise than an earlier one did. Reports and ends may come; none may go or change."""
    for trial in record.trials:
        known = seen.get(trial.trial)
        reports = [report.model_dump() for report in trial.reports]
        now = (trial.point, reports, trial.finished, trial.ended_as)
        if known is not None:
            if known[0] != trial.point or known[1] != reports[: len(known[1])]:
                yield f"trial {trial.trial}: its point or reports changed"
            if known[2] is not None and (known[2], known[3]) != (trial.finished, trial.ended_as):
                yield f"trial {trial.trial}: its end changed"
        seen[trial.trial] = now
    if missing := set(seen) - {trial.trial for trial in record.trials}:
        yield f"trials {sorted(missing)} are gone"


def judged(deployment: Deployment, search_id: str, search: Search, status: str, record: SearchRecord) -> Iterator[str]:
    """The promises that were not kept; see the module."""
    numbers = [trial.trial for trial in record.trials]
    if status != "succeeded":
        yield f"lost: the search is {status}"
    if numbers != list(range(1, search.trials_at_most + 1)):
        yield f"lost: its trials are {numbers}"
    if sorted(trial.ended_as or 0 for trial in record.trials) != numbers:
        yield "lost: not every trial has one place among those that ended"
    with deployment.database.reading() as session:
        told = events.listing(session, search_id, after=0, limit=1_000_000)
    if [event.number for event in told] != list(range(1, len(told) + 1)):
        yield "lost: the numbers of its events have a gap"
    ends = [event.body["trial"] for event in told if event.type == "trial_finished"]
    if repeated := [trial for trial, times in Counter(ends).items() if times > 1]:
        yield f"repeated: the end of trials {repeated} was told twice"
    ended_at = {event.body["trial"]: event.at for event in told if event.type == "trial_finished"}
    for line in deployment.log.read_text("utf-8").splitlines():
        entry = json.loads(line)
        owner, _, number = entry["trial"].partition(":")
        if owner == search_id and entry["what"] == "begun" and entry["at"] > ended_at.get(int(number), float("inf")):
            yield f"repeated: trial {number} began again after its end was recorded"
    if search.concurrency == 1:
        yield from _differing(search, record)


def _differing(search: Search, record: SearchRecord) -> Iterator[str]:
    """Against the same search undisturbed, on another engine."""
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, _ = run_through(search, Path(folder))
    if facts(record) != facts(undisturbed):
        yield "differing: its trials are not those of the undisturbed search"
    if _best(search, record) != _best(search, undisturbed):
        yield "differing: its best is not that of the undisturbed search"


def _best(search: Search, record: SearchRecord) -> int | None:
    return best(search, [trial.finished for trial in record.trials if trial.finished])


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    deployment = Deployment(folder)
    try:
        yield deployment
    finally:
        deployment.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--faults", type=int, default=5, help="at most, for each search")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="dress-faults-") as folder, deployed(Path(folder)) as deployment:
        for name, search in searches_of(options.searches, options.trials):
            verdict = disturbed(deployment, name, search, rng, options.faults)
            verdicts.append(verdict)
            hits = ", ".join(f"{count} {what}" for what, count in sorted(verdict.faults.items()))
            print(
                f"{name}: {verdict.trials} trials, {verdict.attempts} attempts, {verdict.seconds:.0f} s; "
                f"killed: {hits or 'nothing'}; {'; '.join(verdict.broken) or 'all promises kept'}",
                flush=True,
            )
    recoveries = sorted(seconds for verdict in verdicts for seconds in verdict.recoveries)
    if recoveries:
        p99 = recoveries[min(len(recoveries) - 1, round(0.99 * (len(recoveries) - 1)))]
        print(f"recovery: median {recoveries[len(recoveries) // 2]:.1f} s, p99 {p99:.1f} s, N {len(recoveries)}")
    faults = sum(verdict.faults.total() for verdict in verdicts)
    broken = sum(len(verdict.broken) for verdict in verdicts)
    print(f"{len(verdicts)} searches, {faults} faults, {broken} broken promises (seed {options.seed})")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
