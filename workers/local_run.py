"""A recipe run in this process, into a folder: `dress run` without its command line."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers import attempt
from workers.contracts.events import (
    ArtifactStored,
    Event,
    Failed,
    Measured,
    Notice,
    Progress,
    StageFinished,
    StageStarted,
    Succeeded,
)
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.results import Results, StoredFile
from workers.local_store import LocalStore

Tell = Callable[[str], object]


@dataclass
class Ending:
    """What a run came to."""

    results: Results = field(default_factory=Results)
    """All figures; after a failure those that were measured before it."""
    failure: Failed | None = None
    seconds_by_key: dict[str, float] = field(default_factory=dict)
    """What each stage cost, found or computed, in the order of the plan."""


def stray_files(folder: Path) -> str | None:
    """Why this folder must not be written to, or None: it holds what a run would replace, and no run left it there."""
    for name in ("model", "records", "figures"):
        if (folder / name).exists() and not (folder / "result.json").exists():
            return f"{folder / name} is there and no result of an earlier run; name another --out"
    return None


def run_recipe(recipe: Recipe, store: LocalStore, out: Path, *, keep_model: bool, tell: Tell) -> Ending:
    """Run a recipe to its end, telling of each event. Its files go into `out`, the model only if it is kept."""
    drafts = store.root / "drafts"
    for folder in (out, drafts):
        folder.mkdir(parents=True, exist_ok=True)
    store.sweep()
    ending = Ending()
    with tempfile.TemporaryDirectory(prefix="dress-", dir=drafts) as workspace:  # one that was killed is swept later
        for event in attempt.run(recipe, store, Path(workspace), Places.from_environment(), owner="dress run"):
            for line in _lines(event):
                tell(line)
            match event:
                case Measured():
                    ending.results = ending.results.with_measurement(event.subject, event.measurement)
                case StageFinished():
                    ending.seconds_by_key[event.key] = event.cost_seconds or event.seconds
                case ArtifactStored():
                    _place(event, store, out, keep_model=keep_model)
                case Succeeded():
                    ending.results = event.results
                case Failed():
                    ending.failure = event
    return ending


def write_result(out: Path, result: dict[str, Any]) -> None:
    """Write `result.json`."""
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _lines(event: Event) -> list[str]:
    """What a person wants to know of an event while it runs."""
    match event:
        case StageStarted():
            return [f"[{event.index + 1}/{event.count}] {event.stage} {event.subject or ''}"]
        case Progress():
            figures = "  ".join(f"{name} {value:.4g}" for name, value in event.metrics.items())
            return [f"    {event.step}/{event.steps}  {figures}"]
        case StageFinished() if event.reused:
            return ["    found, not computed again"]
        case Notice():
            return [f"    {event.message}"]
        case Failed():
            return [f"failed ({event.code}): {event.message}"]
    return []


def _place(artifact: ArtifactStored, store: LocalStore, out: Path, *, keep_model: bool) -> None:
    place_files([file for file in artifact.files if keep_model or not file.path.startswith("model/")], store, out)


def place_files(files: Iterable[StoredFile], store: LocalStore, out: Path) -> None:
    """Put stored files into a folder, in place of an earlier run's, once all of them are there."""
    out.mkdir(parents=True, exist_ok=True)
    files = list(files)
    with tempfile.TemporaryDirectory(prefix="dress-", dir=out) as draft:
        for stored in files:
            store.fetch(stored, Path(draft))
        for name in sorted({stored.path.partition("/")[0] for stored in files}):
            shutil.rmtree(out / name, ignore_errors=True)
            (Path(draft) / name).rename(out / name)
