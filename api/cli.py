"""The `dress` commands. They know REST only; the parts of the service they start are processes of their own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from api import display, studies, up
from api.commands import compare, datasets, jobs, queue, searches, upkeep
from api.connection import state_folder
from api.console import JsonOption, LabelsOption, PriorityOption, WaitOption, labels_of
from api.console import err as _err
from api.console import fail as _fail
from api.console import out as _out
from api.console import server as _server
from api.following import follow_job, told_job
from api.plans import Plan
from api.recipes import BadFile, read_file, with_absolute_paths
from api.schemas import Job
from api.search_plans import planned_trials, read_search
from api.study_plans import StudyPlan, plan_study, show_study_plan
from workers.contracts.search import is_search
from workers.contracts.study import Row, Study, is_study
from workers.study_table import StudyTable

app = typer.Typer(
    name="dress",
    help="Structured pruning of large language models as durable jobs. `dress up` starts the whole service here.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.add_typer(datasets.app, name="datasets")
app.add_typer(searches.app, name="search")
app.command("compare")(compare.compare)
app.command("jobs")(jobs.listing)
app.command("queue")(queue.show)
app.command("retention")(upkeep.retention)
app.command("gc")(upkeep.collect)
for command in (jobs.show, jobs.events, jobs.cancel, jobs.pause, jobs.resume, jobs.retry, jobs.download):
    app.command()(command)

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe, or of the study's base."),
]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"dress {installed_version('dress-service')}")
        raise typer.Exit


@app.command("up")
def up_command(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of the database, artifacts, key and logs (default: DRESS_STATE_DIR or ~/.dress)."),
    ] = None,
) -> None:
    """Start the whole service on this machine: API, dispatcher, local Ray, SQLite, local artifacts.

    Runs until SIGTERM or Ctrl-C, which end everything it started. The parts log to STATE/logs/api.log and
    STATE/logs/dispatch.log; what happens to the parts themselves is told on stderr.
    """
    try:
        status = up.run(host, port, state_folder(state), _err())
    except up.CannotStart as error:
        _fail(str(error))
    raise typer.Exit(status)


@app.command()
def api(host: HostOption = "127.0.0.1", port: PortOption = 8000) -> None:
    """Serve the REST interface only."""
    _become("api", "--host", host, "--port", str(port))


@app.command()
def dispatch() -> None:
    """Run the dispatcher only: it takes queued jobs and runs them on Ray."""
    _become("service.dispatch")


@app.command()
def migrate() -> None:
    """Create the database or bring it to this version's schema."""
    _become("service.database")


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, a study or a search in YAML.")],
    out: Annotated[
        Path, typer.Option(help="Folder for result.json and model/; of a study or a search, for its table.")
    ],
    as_json: JsonOption = False,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Of a study: keep each row's model/ too.")] = False,
    settings: SetOption = None,
) -> None:
    """Run a recipe, all rows of a study, or a search, here and now, without the service and without Ray."""
    flags = [*(["--json"] if as_json else []), *(["--keep-models"] if keep_models else [])]
    _become("workers", str(recipe), "--out", str(out), *flags, *(f"--set={setting}" for setting in settings or []))


def _become(module: str, *arguments: str) -> NoReturn:
    """Turn into another part of the distribution: signals and the exit status are its own."""
    os.environ["DRESS_STATE_DIR"] = str(state_folder())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  # our own modules


@app.command()
def submit(
    recipe: Annotated[Path, typer.Argument(help="A recipe or a study in YAML; `-` reads it from stdin.")],
    wait: WaitOption = False,
    as_json: JsonOption = False,
    label: LabelsOption = None,
    priority: PriorityOption = 0,
    settings: SetOption = None,
) -> None:
    """Submit a recipe as a job, or each row of a study as one."""
    labels = labels_of(label)
    try:
        wanted = read_file(recipe, settings or ())
        if is_search(wanted):
            _fail(f"{recipe} is a search; submit it with `dress search submit {recipe}`")
        if is_study(wanted):
            study, rows = studies.read_study(wanted)
            raise typer.Exit(_submit_study(study, rows, labels, priority, wait, as_json))
    except BadFile as error:
        _fail(str(error))
    wanted = with_absolute_paths(wanted)
    with _server() as client:
        told_job(client, client.jobs.submit(wanted, labels=labels, priority=priority), wait=wait, as_json=as_json)


def _submit_study(
    study: Study, rows: list[Row], labels: dict[str, str], priority: int, wait: bool, as_json: bool
) -> int:
    """Submit every row and perhaps wait for all of them; the exit status."""
    with _server() as client:
        queued = studies.submit(client, study, rows, labels, priority, _err())
        if wait:
            table = studies.awaited(client, study, queued, lambda job: follow_job(client, job))
            _print_table(table, as_json=as_json)
            return 0 if table.is_complete else 1
    made = [answer for _, answer in queued if isinstance(answer, Job)]
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": [job.model_dump(mode="json") for job in made]}))
    else:
        typer.echo("\n".join(job.id for job in made))
        _err().print(f"Their table, at any time: dress study {study.slug}", highlight=False)
    return 0 if len(made) == len(rows) else 1


def _print_table(table: StudyTable, *, as_json: bool) -> None:
    typer.echo(table.model_dump_json(exclude_none=True) if as_json else table.markdown().rstrip("\n"))


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe or a study in YAML; `-` reads it from stdin.")],
    as_json: JsonOption = False,
    settings: SetOption = None,
) -> None:
    """Tell what a recipe would do, before it is queued: stages, memory, time, sizes. Exit 0 only if it may fit.

    Of a study it tells each row, and the sum of time and GPU-hours; a stage that rows share counts once. Of a search it
    tells the trials of a grid in full, and of another search one for each value to be tried.
    """
    rows: Sequence[Row] | None = None
    notes: list[str] = []
    try:
        wanted = read_file(recipe, settings or ())
        if is_search(wanted):
            rows, notes = planned_trials(read_search(wanted))
        elif is_study(wanted):
            rows = studies.read_study(wanted)[1]
    except BadFile as error:
        _fail(str(error))
    told: Plan | StudyPlan
    with _server() as client:
        told = client.plan(with_absolute_paths(wanted)) if rows is None else plan_study(client, rows, notes)
    if as_json:
        typer.echo(told.model_dump_json())
    else:
        show_study_plan(_out(), told) if isinstance(told, StudyPlan) else display.show_plan(_out(), told)
    raise typer.Exit(1 if told.fits is False else 0)


@app.command("study")
def study_command(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="The study's label, as `dress submit` says it.")],
    as_json: JsonOption = False,
) -> None:
    """Show the table of a study that was submitted, as far as its jobs have come; of each row the newest job."""
    with _server() as client:
        table = studies.table(client, name)
    if table is None:
        _fail(f"no job has the label study={name}")
    _print_table(table, as_json=as_json)


def main() -> None:
    """The entry point of the `dress` command."""
    app(prog_name="dress")


if __name__ == "__main__":
    main()
