"""What a search saves: 6 λ x 4 ratios as one search, and the same 24 recipes as separate jobs that find nothing.

`make bench` runs this. Aim: at least half of the compute, with the same figures. No scheduler on either side. Half of
the jobs run before the search and half after it, so that a machine that slows down harms both alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy" / "demo"))
from main_job import filled, small_llama

from workers.contracts.recipe import Recipe
from workers.contracts.results import Results
from workers.contracts.search import Search
from workers.local_run import run_recipe
from workers.local_store import LocalStore
from workers.search_run import run_search
from workers.searching.table import SearchTable

STRENGTHS = [1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 1e-1]
RATIOS = [0.125, 0.25, 0.375, 0.5]

BASES: dict[str, dict[str, Any]] = {
    "ordered λ, in principal axes": {"preset": "recommended", "solver": "penalty", "regularized": "ordered"},
    "ordered λ, as published otherwise": {"preset": "paper", "regularized": "ordered"},
    "as published": {"preset": "paper"},
}
"""The penalty that λ weighs, in three forms; only in the first two does one regularize run serve every ratio."""


@dataclass
class Cost:
    """Of one side."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    results: list[Results] = field(default_factory=list)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Add what the block takes."""
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.wall_seconds += time.monotonic() - wall
        self.cpu_seconds += time.process_time() - cpu


def main() -> None:
    """Print both costs, their ratio, the saving by stage, and whether all figures agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bases", type=int, default=1, help="how many forms of the penalty, from the first on")
    options = parser.parse_args()
    model = small_llama(short=True)
    for title, method in list(BASES.items())[: options.bases]:
        base = filled(model, RATIOS[0], short=True) | {"seed": options.seed}
        base["evaluate"].pop("speed")  # seconds differ from run to run
        base["resources"]["cpus"] = 1  # threads that wait for each other would count as work
        base["method"] |= {**method, "elastic_ratios": RATIOS}
        print(f"{title}, {len(STRENGTHS)} λ x {len(RATIOS)} ratios, seed {options.seed}", flush=True)
        compared(base)


def compared(base: dict[str, Any]) -> None:
    """Both sides of one base recipe."""
    space = {"method.strength": {"choice": STRENGTHS}, "method.ratio": {"choice": RATIOS}}
    objective = {"metric": "recovered.perplexity.stdlib_docs", "mode": "min"}
    search = Search.model_validate(
        {"base": base, "space": space, "objective": objective, "algorithm": "grid", "keep": "none"}
    )
    points = [
        {"method.strength": strength, "method.ratio": ratio} for strength in STRENGTHS for ratio in RATIOS
    ]  # in the order of the grid
    recipes = [search.recipe_at(point) for point in points]
    apart, together = Cost(), Cost()
    middle = len(recipes) // 2
    with tempfile.TemporaryDirectory(prefix="dress-bench-") as scratch:
        separately(recipes[:middle], Path(scratch) / "before", apart)
        with together.counted():
            table, failure = run_search(search, Path(scratch) / "search", tell=lambda _line: None)
        if failure is not None:
            raise SystemExit(f"the search failed: {failure.message}")
        separately(recipes[middle:], Path(scratch) / "after", apart)
    told(apart, together, table)


def separately(recipes: list[Recipe], folder: Path, cost: Cost) -> None:
    """Each recipe as a job of its own, with a store of its own."""
    for number, recipe in enumerate(recipes):
        out = folder / str(number)
        with cost.counted():
            ending = run_recipe(recipe, LocalStore(out / ".store"), out, keep_model=False, tell=lambda _line: None)
        if ending.failure is not None:
            raise SystemExit(f"a job failed: {ending.failure.message}")
        cost.results.append(ending.results)


def told(apart: Cost, together: Cost, table: SearchTable) -> None:
    """The lines that the benchmark prints."""
    for name, cost in (("separate jobs", apart), ("one search", together)):
        print(f"  {name:14} {cost.cpu_seconds:8.1f} s of CPU {cost.wall_seconds:8.1f} s")
    saved = 1 - together.cpu_seconds / apart.cpu_seconds
    print(f"  saved {saved:.1%} of the CPU time, {1 - together.wall_seconds / apart.wall_seconds:.1%} of the time")
    work = table.work
    for stage, seconds in work.avoided_by_stage.items():
        share = seconds / (work.spent_seconds + work.avoided_seconds)
        print(f"    {stage:18} {seconds:8.1f} s avoided, {share:6.1%} of what all trials would have cost")
    rows = sorted(table.rows, key=lambda row: row.trial)
    cold = [results.recovered for results in apart.results]
    differing = [
        row.trial
        for row, results in zip(rows, cold, strict=True)
        if results is None
        or row.values["recovered.perplexity.stdlib_docs"] != results.perplexity["stdlib_docs"]
        or row.parameters != results.parameters
    ]
    print(
        f"  figures of {len(rows) - len(differing)} of {len(rows)} trials equal those of the separate jobs to the bit"
    )
    if differing:
        raise SystemExit(f"trials {differing} differ from the same recipes run alone")


if __name__ == "__main__":
    main()
