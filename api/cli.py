"""The `dress` commands. They know REST only; the parts of the service they start are processes of their own."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from api import display, studies, up
from api.client import Client
from api.commands import compare, datasets
from api.connection import state_folder
from api.console import JsonOption
from api.console import err as _err
from api.console import fail as _fail
from api.console import out as _out
from api.console import server as _server
from api.plans import Plan
from api.recipes import BadFile, read_file, with_absolute_paths
from api.schemas import FINAL_STATUSES, Job
from api.study_plans import StudyPlan, plan_study, show_study_plan
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
app.command("compare")(compare.compare)

JobIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe, or of the study's base."),
]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
INTERRUPTED = 130


def _print_json(job: Job) -> None:
    typer.echo(job.model_dump_json())


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
    recipe: Annotated[Path, typer.Argument(help="A recipe or a study in YAML.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json and model/; of a study, for table.md and rows.")],
    as_json: JsonOption = False,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Of a study: keep each row's model/ too.")] = False,
    settings: SetOption = None,
) -> None:
    """Run a recipe, or all rows of a study, here and now, without the service and without Ray."""
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
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 0 only if it succeeded.")] = False,
    as_json: JsonOption = False,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be repeated.")] = None,
    priority: Annotated[int, typer.Option(help="Higher runs sooner.")] = 0,
    settings: SetOption = None,
) -> None:
    """Submit a recipe as a job, or each row of a study as one."""
    labels = _labels(label or [])
    try:
        wanted = read_file(recipe, settings or ())
        if is_study(wanted):
            study, rows = studies.read_study(wanted)
            raise typer.Exit(_submit_study(study, rows, labels, priority, wait, as_json))
    except BadFile as error:
        _fail(str(error))
    wanted = with_absolute_paths(wanted)
    with _server() as client:
        job = client.jobs.submit(wanted, labels=labels, priority=priority)
        if not wait:
            _print_json(job) if as_json else typer.echo(job.id)
            return
        _err().print(f"job {job.id}", highlight=False)
        job = _follow(client, job)
        if as_json:
            _print_json(job)
        display.show_job(_err() if as_json else _out(), job)
    raise typer.Exit(0 if job.status == "succeeded" else 1)


def _submit_study(
    study: Study, rows: list[Row], labels: dict[str, str], priority: int, wait: bool, as_json: bool
) -> int:
    """Submit every row and perhaps wait for all of them; the exit status."""
    with _server() as client:
        queued = studies.submit(client, study, rows, labels, priority, _err())
        if wait:
            table = studies.awaited(client, study, queued, lambda job: _follow(client, job))
            _print_table(table, as_json=as_json)
            return 0 if table.is_complete else 1
    jobs = [answer for _, answer in queued if isinstance(answer, Job)]
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": [job.model_dump(mode="json") for job in jobs]}))
    else:
        typer.echo("\n".join(job.id for job in jobs))
        _err().print(f"Their table, at any time: dress study {study.slug}", highlight=False)
    return 0 if len(jobs) == len(rows) else 1


def _print_table(table: StudyTable, *, as_json: bool) -> None:
    typer.echo(table.model_dump_json(exclude_none=True) if as_json else table.markdown().rstrip("\n"))


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe or a study in YAML; `-` reads it from stdin.")],
    as_json: JsonOption = False,
    settings: SetOption = None,
) -> None:
    """Tell what a recipe would do, before it is queued: stages, memory, time, sizes. Exit 0 only if it may fit.

    Of a study it tells each row, and the sum of time and GPU-hours; a stage that rows share counts once.
    """
    try:
        wanted = read_file(recipe, settings or ())
        rows = studies.read_study(wanted)[1] if is_study(wanted) else None
    except BadFile as error:
        _fail(str(error))
    told: Plan | StudyPlan
    with _server() as client:
        told = plan_study(client, rows) if rows else client.plan(with_absolute_paths(wanted))
    if as_json:
        typer.echo(told.model_dump_json())
    else:
        show_study_plan(_out(), told) if isinstance(told, StudyPlan) else display.show_plan(_out(), told)
    raise typer.Exit(1 if told.fits is False else 0)


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        name, given, value = pair.partition("=")
        if not given or not name:
            _fail(f"--label {pair}: write KEY=VALUE", status=2)
        labels[name] = value
    return labels


def _follow(client: Client, job: Job) -> Job:
    """Show the job's events until it is final. Ctrl-C stops showing them, not the job."""
    try:
        with display.JobProgress(_err()) as progress:
            for event in client.jobs.events(job.id, follow=True):
                progress.tell(event)
        return client.jobs.get(job.id)
    except KeyboardInterrupt:
        _err().print(
            f"The job goes on. Follow it: dress events {job.id} -f   End it: dress cancel {job.id}", highlight=False
        )
        raise typer.Exit(INTERRUPTED) from None


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


@app.command("jobs")
def jobs_command(
    status: Annotated[str | None, typer.Option(help="Only jobs in this status.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Jobs at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with _server() as client:
        found = client.jobs.list(status=status, label=label, limit=limit)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        _out().print(display.jobs_table(found.data))


@app.command()
def show(job_id: JobIdArgument, as_json: JsonOption = False) -> None:
    """Show a job: status, error, results."""
    with _server() as client:
        job = client.jobs.get(job_id)
    if as_json:
        _print_json(job)
    else:
        display.show_job(_out(), job)


@app.command()
def events(
    job_id: JobIdArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is final.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater number.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A list on stdout; with -f one object a line.")] = False,
) -> None:
    """Show what happened to a job."""
    with _server() as client:
        told = client.jobs.events(job_id, after=after, follow=follow)
        if as_json and not follow:
            typer.echo(json.dumps({"object": "list", "data": [event.model_dump(mode="json") for event in told]}))
            return
        try:
            for event in told:
                if as_json:
                    typer.echo(event.model_dump_json())
                else:
                    _out().print(display.event_line(event), highlight=False)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


@app.command()
def cancel(job_id: JobIdArgument, as_json: JsonOption = False) -> None:
    """Cancel a job, waiting or running."""
    with _server() as client:
        job = client.jobs.cancel(job_id)
    if as_json:
        _print_json(job)
    else:
        typer.echo(f"{job.id} {job.status}")


@app.command()
def download(
    job_id: JobIdArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put the files; made if missing.")],
) -> None:
    """Download what a job left. Goes on where an earlier download stopped, and verifies every digest."""
    with _server() as client:
        job = client.jobs.get(job_id)
        files = client.jobs.download(job_id, folder)
    if not files:
        _fail(f"{job_id} is {job.status}: it has left no files{'' if job.status in FINAL_STATUSES else ' yet'}")
    _err().print(f"{len(files)} files in {escape(str(folder))}", highlight=False)


def main() -> None:
    """The entry point of the `dress` command."""
    app(prog_name="dress")


if __name__ == "__main__":
    main()
