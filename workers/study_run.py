"""A study run in this process: its rows one after the other, into a folder each, and the table they make."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from workers.comparison.drawing import write_figures
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.study import Row, Study
from workers.errors import WorkerError
from workers.local_run import Ending, Tell, run_recipe, write_result
from workers.local_store import LocalStore
from workers.planning.plan import Sources, stages_of
from workers.study_table import StudyTable, TableRow


def run_study(study: Study, rows: Sequence[Row], out: Path, *, keep_models: bool, tell: Tell) -> StudyTable:
    """Run the rows one after the other, into `out/<slug>/`, and write the table anew after each, figures at the end.

    One store serves them all: a stage that rows share is computed once, and an interrupted study goes on where it was.
    Unless models are kept, a stage's files go once no row to come has a use for them.
    """
    store = LocalStore(out / ".store")
    done: list[TableRow] = []
    for place, row in enumerate(rows):
        tell(f"== row {place + 1} of {len(rows)}: {row.name}")
        folder = out / row.slug
        line = None if keep_models else _finished(row, folder, store)
        if line is not None:
            tell("    found, not computed again")
        else:
            ending = run_recipe(row.recipe, store, folder, keep_model=keep_models, tell=tell)
            line = _line(row, ending)
            write_result(folder, line.model_dump(mode="json", exclude_none=True))
            if ending.failure is None and not keep_models:
                store.forget(_unshared(row.recipe, ending, (later.recipe for later in rows[place + 1 :])))
        done.append(line)
        table = StudyTable(title=study.title, about=study.about, rows=done)
        table.write(out)
    _draw(table, out / "figures")
    return table


def _draw(table: StudyTable, folder: Path) -> None:
    """The table's figures, in place of an earlier run's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_figures(table.rows, folder)


def _line(row: Row, ending: Ending) -> TableRow:
    failure = ending.failure
    return TableRow(
        name=row.name,
        is_control=row.is_control,
        status="failed" if failure else "succeeded",
        error=f"{failure.code}: {failure.message}" if failure else None,
        seconds=sum(ending.seconds_by_key.values()),
        results=ending.results,
        recipe=row.recipe.model_dump(mode="json"),
        keys=list(ending.seconds_by_key),
    )


def _finished(row: Row, folder: Path, store: LocalStore) -> TableRow | None:
    """The row's line from an earlier run, if all that decides its stages is as it was then."""
    try:
        line = TableRow.model_validate(json.loads((folder / "result.json").read_text("utf-8")))
    except (OSError, ValueError, ValidationError):
        return None
    if line.status != "succeeded":
        return None
    try:
        keys = _keys(row.recipe, store)
    except WorkerError:  # running the row will say so
        return None
    return line.model_copy(update={"name": row.name, "is_control": row.is_control}) if keys == line.keys else None


def _keys(recipe: Recipe, store: LocalStore) -> list[str | None]:
    """The keys of the recipe's stages, in order; loads the texts and digests the model, but runs nothing."""
    from workers.workbench import Workbench  # torch is loaded for those who run

    with tempfile.TemporaryDirectory(prefix="dress-") as workspace:
        bench = Workbench(recipe, store, Path(workspace), Places.from_environment())
        return [stage.key for stage in stages_of(recipe, bench.sources)]


def _unshared(recipe: Recipe, ending: Ending, later: Iterable[Recipe]) -> list[str]:
    """The keys of the stages of a recipe that has run which no later recipe has."""
    wanted = {stand_in for other in later for stand_in in stand_in_keys(other)}
    pairs = zip(ending.seconds_by_key, stand_in_keys(recipe), strict=True)
    return [key for key, stand_in in pairs if stand_in not in wanted]


def stand_in_keys(recipe: Recipe) -> list[str | None]:
    """Keys made of the sources' names in place of their digests: equal where the true keys are, and quick to have."""
    texts = {text.key: text.model_dump_json(exclude={"label"}) for text in recipe.evaluate.perplexity}
    held_out = "".join(sorted(set(texts.values())))
    sources = Sources(
        model=recipe.model.model_dump_json(),
        training_text=recipe.data.model_dump_json(include={"name", "path", "dataset"}) + held_out,
        texts=texts,
        code="",
        machine="",
        tasks={task.name: task.name for task in recipe.evaluate.wanted_tasks},
    )
    return [stage.key for stage in stages_of(recipe, sources)]
