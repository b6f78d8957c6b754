"""`dress run FILE --out DIR`: a recipe, a study or a search in this process, without a service and without Ray."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from workers import local_run, study_run
from workers.contracts.base import field_path
from workers.contracts.recipe import Recipe, parse_yaml
from workers.contracts.search import Search, checked, is_search
from workers.contracts.study import Study, expand, is_study, with_settings
from workers.errors import RecipeError
from workers.local_store import LocalStore

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if all ran to its end, 1 if something failed, 2 if the file could not be read."""
    options = _options(arguments)
    try:
        plain = with_settings(parse_yaml(options.recipe.read_text(encoding="utf-8")), options.set)
        wanted = _wanted(plain)
        rows = expand(wanted) if isinstance(wanted, Study) else []
        if isinstance(wanted, Search):
            checked(wanted)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return _say(f"{options.recipe} could not be read: {error}", 2)
    except RecipeError as error:
        return _say(str(error), 2)
    except ValidationError as error:
        for flaw in error.errors():
            _say(f"{field_path(plain, flaw['loc'])}: {flaw['msg']}", 2)
        return 2
    if isinstance(wanted, Search):
        return _run_search(wanted, options)
    folders = [options.out / row.slug for row in rows] or [options.out]
    if stray := next(filter(None, map(local_run.stray_files, folders)), None):
        return _say(stray, 2)
    if isinstance(wanted, Recipe):
        return _run_recipe(wanted, options)
    table = study_run.run_study(wanted, rows, options.out, keep_models=options.keep_models, tell=_say)
    print(table.model_dump_json(exclude_none=True) if options.json else table.markdown())
    return 0 if table.is_complete else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dress run", description="Run a recipe, a study or a search in this process.")
    parser.add_argument("recipe", type=Path, help="a recipe, a study or a search in YAML")
    parser.add_argument("--out", type=Path, required=True, help="folder for results, models and resumable state")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    parser.add_argument("--keep-models", action="store_true", help="of a study: keep each row's model/ too")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe or of the base"
    )
    return parser.parse_args(arguments)


def _wanted(plain: Any) -> Recipe | Study | Search:
    if is_search(plain):
        return Search.model_validate(plain)
    return Study.model_validate(plain) if is_study(plain) else Recipe.model_validate(plain)


def _run_search(search: Search, options: argparse.Namespace) -> int:
    from workers import search_run  # loads Optuna and matplotlib, which no recipe needs

    try:
        table, failure = search_run.run_search(search, options.out, tell=_say)
    except ValueError as error:
        return _say(str(error), 2)
    print(table.json() if options.json else table.markdown())
    return 1 if failure or table.best is None else 0


def _run_recipe(recipe: Recipe, options: argparse.Namespace) -> int:
    store = LocalStore(options.out / ".store")
    ending = local_run.run_recipe(recipe, store, options.out, keep_model=True, tell=_say)
    if ending.failure:
        return 1
    result: dict[str, Any] = {
        "status": "succeeded",
        "recipe": recipe.model_dump(mode="json"),
        "results": ending.results.model_dump(mode="json", exclude_none=True),
    }
    local_run.write_result(options.out, result)
    if options.json:
        print(json.dumps(result))
    return 0


def _say(line: str, status: int = 0) -> int:
    print(line, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; the same command goes on from here", INTERRUPTED))
