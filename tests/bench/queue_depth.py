"""What a long queue costs: submitting and claiming at 1,000 and at 100,000 queued jobs, in turns.

`make bench` runs this on SQLite; `--database postgresql://…` takes an empty database of that server. Aim: claims a
second at 100,000 at least 0.9 times those at 1,000. Every submit and every claim is a transaction of its own, durable
when it returns; a claim is what the dispatcher does, a look at the queue's head and a lease.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from service import backlog, jobs, queue
from service.database.schema import upgrade
from service.database.session import Database
from service.domain.lease import RetryRules
from workers.contracts.events import NumberedEvent, Succeeded
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results

AT_ONCE = 500
LEASE_SECONDS = 600.0
PRIORITIES = 5

Result = TypeVar("Result")

RECIPE = Recipe.model_validate({"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}})


@dataclass
class Depth:
    """A queue of some length, and the seconds that each step took on it."""

    database: Database
    queued: int
    submits: list[float] = field(default_factory=list)
    claims: list[float] = field(default_factory=list)

    def fill(self) -> None:
        """Queue as many jobs as it is to hold."""
        for start in range(0, self.queued, AT_ONCE):
            with self.database.writing() as session:
                for number in range(start, min(start + AT_ONCE, self.queued)):
                    submit: dict[str, Any] = {
                        "metadata": {},
                        "labels": {"number": str(number)},
                        "priority": number % PRIORITIES,
                    }
                    jobs.submit(session, recipe=RECIPE, **submit)

    def turn(self) -> None:
        """Claim the first job, end it, and submit another in its place."""
        lease = timed(self.claims, self._claimed)
        with self.database.writing() as session:
            last = NumberedEvent(sequence=1, event=Succeeded(results=Results()))
            queue.apply(session, lease, [last], RetryRules())
        timed(self.submits, self._submitted)

    def _claimed(self) -> queue.Lease:
        with self.database.reading() as session:
            first = backlog.waiting(session, 1)[0].id
        with self.database.writing() as session:
            lease = queue.lease(session, first, owner="bench", seconds=LEASE_SECONDS)
        if lease is None:
            raise SystemExit("somebody else works on this database")
        return lease

    def _submitted(self) -> None:
        with self.database.writing() as session:
            jobs.submit(session, recipe=RECIPE, metadata={}, labels={}, priority=PRIORITIES // 2)


def timed(into: list[float], act: Callable[[], Result]) -> Result:
    """What `act` returns; its seconds are noted."""
    started = time.perf_counter()
    result = act()
    into.append(time.perf_counter() - started)
    return result


def main() -> None:
    """Print both lengths side by side, and the ratio of their claims a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--long", type=int, default=100_000)
    parser.add_argument("--short", type=int, default=1_000)
    parser.add_argument(
        "--database", nargs=2, metavar="URL", help="two empty databases, for the short and the long queue"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dress-bench-") as folder:
        urls = options.database or [f"sqlite:///{Path(folder) / name}.sqlite3" for name in ("short", "long")]
        depths = [Depth(Database(url), queued) for url, queued in zip(urls, (options.short, options.long), strict=True)]
        for depth in depths:
            upgrade(depth.database)
            depth.fill()
        for _ in range(options.turns):
            for depth in depths:
                depth.turn()
        for line in told(depths):
            print(line, flush=True)
        for depth in depths:
            depth.database.dispose()


def told(depths: list[Depth]) -> Iterator[str]:
    """The lines that the benchmark prints."""
    for depth in depths:
        rate = len(depth.claims) / sum(depth.claims)
        yield (
            f"  {depth.queued:7,} queued: submit {_spread(depth.submits)}, claim {_spread(depth.claims)}, "
            f"{rate:.0f} claims a second"
        )
    short, long = (sum(depth.claims) for depth in depths)
    yield f"claims a second, long over short: {short / long:.2f} (N {len(depths[0].claims)}; aim at least 0.9)"


def _spread(seconds: list[float]) -> str:
    hundredths = statistics.quantiles(seconds, n=100)
    return f"median {1000 * statistics.median(seconds):.1f} ms, p99 {1000 * hundredths[98]:.1f} ms"


if __name__ == "__main__":
    main()
