"""What the service costs: one recipe through REST, queue and Ray, and the same through `dress run`, in turns.

`make bench` runs this. Aim: at most 1.05 times `dress run`, plus 5 seconds. Each turn has a seed of its own, so that
nothing is found by its digest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "demo"))
from main_job import dress, filled, service, small_llama


def main() -> None:
    """Print both times of each turn, their medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    model = small_llama(short=True)
    alone, served = [], []
    with tempfile.TemporaryDirectory(prefix="dress-bench-") as scratch, service(Path(scratch) / "state") as environment:
        file = Path(scratch) / "recipe.yaml"
        for turn in range(options.turns):
            file.write_text(yaml.safe_dump(filled(model, 0.25, short=True) | {"seed": turn}), encoding="utf-8")
            started = time.monotonic()
            dress("run", file, "--out", Path(scratch) / f"run-{turn}", environment=environment)
            alone.append(time.monotonic() - started)
            started = time.monotonic()
            dress("submit", file, "--wait", environment=environment)
            served.append(time.monotonic() - started)
            print(f"  turn {turn}: dress run {alone[-1]:.1f} s, through the service {served[-1]:.1f} s", flush=True)
    bound = 1.05 * statistics.median(alone) + 5
    print(
        f"median of {options.turns}: dress run {statistics.median(alone):.1f} s, "
        f"through the service {statistics.median(served):.1f} s; aim at most {bound:.1f} s"
    )


if __name__ == "__main__":
    main()
