"""What ASHA finds, and for how many training steps: a grid of λ and learning rates in full, and under the scheduler.

`make bench` runs this. Aim: for each seed a trial within 1 % of the grid's best, for at most 40 % of its steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "demo"))
from main_job import filled, small_llama

from workers.contracts.search import Search
from workers.search_run import run_search
from workers.searching.row import TrialRow
from workers.searching.table import SearchTable

SPACE = {
    "method.strength": {"choice": [1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]},
    "method.training.learning_rate": {"choice": [1e-4, 3e-4, 1e-3, 3e-3]},
}
METRIC = "recovered.perplexity.stdlib_docs"
WITHIN = 0.01
STEPS_AT_MOST = 0.4


def main() -> None:
    """Print a line a seed, and what became of the aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ratio", type=float, default=0.25)
    options = parser.parse_args()
    base = filled(small_llama(short=True), options.ratio, short=True)
    base["evaluate"].pop("speed")
    base["resources"]["cpus"] = 1
    base["method"] |= {"preset": "paper"}
    reached = 0
    for seed in options.seeds:
        whole = ended({"base": base | {"seed": seed}, "seed": seed})
        early = ended({"base": base | {"seed": seed}, "seed": seed, "scheduler": "asha"})
        best, found = (
            min(row.values[METRIC] or float("inf") for row in each.rows if row.values) for each in (whole, early)
        )
        steps = sum(map(trained_fraction, early.rows)) / len(whole.rows)
        kept = found <= (1 + WITHIN) * best and steps <= STEPS_AT_MOST
        reached += kept
        through = sum(row.status == "succeeded" for row in early.rows)
        print(
            f"  seed {seed}: grid of {len(whole.rows)} {best:.3f} (trial {whole.best}), asha {found:.3f} "
            f"(trial {early.best}, {found / best - 1:+.2%}), {steps:.1%} of the steps, {through} trials to the end",
            flush=True,
        )
    print(f"{reached} of {len(options.seeds)} seeds: within {WITHIN:.0%} for at most {STEPS_AT_MOST:.0%} of the steps")


def ended(plain: dict[str, Any]) -> SearchTable:
    """A search run to its end in a store of its own."""
    objective = {"metric": METRIC, "mode": "min"}
    search = Search.model_validate(
        {"space": SPACE, "objective": objective, "algorithm": "grid", "keep": "none", **plain}
    )
    with tempfile.TemporaryDirectory(prefix="dress-bench-") as scratch:
        table, failure = run_search(search, Path(scratch), tell=lambda _line: None)
    if failure is not None:
        raise SystemExit(f"the search failed: {failure.message}")
    return table


def trained_fraction(row: TrialRow) -> float:
    """Of a trial's training steps, those that it took."""
    if row.status != "stopped":
        return 1.0
    return row.reports[-1].fraction or 1.0


if __name__ == "__main__":
    main()
