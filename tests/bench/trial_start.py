"""What a search costs between two trials: from a slot that falls free to the next trial's first training step.

`make bench` runs this: a search through queue, dispatcher, Ray and Tune, one trial at a time. The first trial warms the
worker and is left out. Aim: a median of at most 1 second on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "demo"))
from main_job import CACHE, filled, small_llama

from tests.faults.searches import Deployment
from workers.contracts.search import Search

LOOK_SECONDS = 0.5


def main() -> None:
    """Print each gap, in its two halves, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    base = filled(small_llama(short=True), 0.25, short=True)
    base["evaluate"].pop("speed")
    base["method"] |= {"preset": "paper"}
    search = Search.model_validate(
        {
            "base": base,
            "space": {"method.strength": "loguniform(1e-4, 1e-1)"},
            "objective": "recovered.perplexity.stdlib_docs min",
            "algorithm": "random",
            "trials": options.trials,
            "keep": "none",
        }
    )
    with tempfile.TemporaryDirectory(prefix="dress-bench-") as folder:
        deployment = Deployment(Path(folder), "tests.bench.logged_pipeline:run", DRESS_MODEL_ROOTS=str(CACHE))
        try:
            until_ended(deployment, search)
            gaps = list(gaps_in(deployment.log))
        finally:
            deployment.end()
    for trial, own, pipeline in gaps:
        print(f"  trial {trial}: {own:.2f} s until its pipeline begins, {pipeline:.2f} s until it has taken a step")
    own, whole = [gap[1] for gap in gaps], [gap[1] + gap[2] for gap in gaps]
    print(
        f"{len(gaps)} warm trials: median {statistics.median(whole):.2f} s ({min(whole):.2f}-{max(whole):.2f}), "
        f"of it the search's own {statistics.median(own):.2f} s; aim at most 1 s"
    )


def until_ended(deployment: Deployment, search: Search) -> None:
    """Submit the search and wait for its end."""
    search_id, pause = deployment.submit(search), threading.Event()
    while True:
        deployment.keep_dispatching()
        status, *_ = deployment.record(search_id)
        if status not in ("queued", "running"):
            break
        pause.wait(LOOK_SECONDS)
    if status != "succeeded":
        raise SystemExit(f"the search {status}")


def gaps_in(log: Path) -> Iterator[tuple[int, float, float]]:
    """By trial from the second on: seconds from the end of the one before to its beginning, and to its first step."""
    times: dict[int, dict[str, float]] = defaultdict(dict)
    for line in log.read_text("utf-8").splitlines():
        entry = json.loads(line)
        times[int(entry["trial"].partition(":")[2])][entry["what"]] = entry["at"]
    for trial in sorted(times)[1:]:
        begun = times[trial]["begun"]
        yield trial, begun - times[trial - 1]["ended"], times[trial]["trains"] - begun


if __name__ == "__main__":
    main()
