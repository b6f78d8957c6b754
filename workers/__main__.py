"""`dress run recipe.yaml --out DIR`: the pipeline alone, in this process, without a service and without Ray."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from workers import attempt
from workers.contracts.events import ArtifactStored, Event, Failed, Notice, Progress, StageStarted, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe, parse_yaml
from workers.local_store import LocalStore


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if the recipe ran to its end, 1 if it failed, 2 if it could not be read."""
    options = _options(arguments)
    try:
        recipe = Recipe.model_validate(parse_yaml(options.recipe.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return _say(f"{options.recipe} could not be read: {error}", 2)
    except ValidationError as error:
        for flaw in error.errors():
            _say(f"{'.'.join(str(part) for part in flaw['loc'])}: {flaw['msg']}", 2)
        return 2
    if (options.out / "model").exists() and not (options.out / "result.json").exists():
        return _say(f"{options.out / 'model'} is there and no result of an earlier run; name another --out", 2)
    store = LocalStore(options.out / ".store")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dress-", dir=options.out) as workspace:
        events = attempt.run(recipe, store, Path(workspace), Places.from_environment(), owner="dress run")
        return _follow(events, recipe, store, options)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dress run", description="Run a recipe in this process.")
    parser.add_argument("recipe", type=Path, help="a recipe in YAML")
    parser.add_argument("--out", type=Path, required=True, help="folder for result.json, model/ and resumable state")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    return parser.parse_args(arguments)


def _follow(events: Iterator[Event], recipe: Recipe, store: LocalStore, options: argparse.Namespace) -> int:
    """Tell of each event on stderr, and write what the last ones bring."""
    for event in events:
        match event:
            case StageStarted():
                _say(f"[{event.index + 1}/{event.count}] {event.stage} {event.subject or ''}")
            case Progress():
                figures = "  ".join(f"{name} {value:.4g}" for name, value in event.metrics.items())
                _say(f"    {event.step}/{event.steps}  {figures}")
            case Notice():
                _say(f"    {event.message}")
            case ArtifactStored():
                _place(event, store, options.out)
            case Failed():
                return _say(f"failed ({event.code}): {event.message}", 1)
            case Succeeded():
                result = {
                    "status": "succeeded",
                    "recipe": recipe.model_dump(mode="json"),
                    "results": event.results.model_dump(mode="json", exclude_none=True),
                }
                (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
                if options.json:
                    print(json.dumps(result))
    return 0


def _place(artifact: ArtifactStored, store: LocalStore, out: Path) -> None:
    """Put the model in place of an earlier run's, once all of it is there."""
    with tempfile.TemporaryDirectory(prefix="dress-", dir=out) as draft:
        for stored in artifact.files:
            store.fetch(stored, Path(draft))
        shutil.rmtree(out / "model", ignore_errors=True)
        (Path(draft) / "model").rename(out / "model")


def _say(line: str, status: int = 0) -> int:
    print(line, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
