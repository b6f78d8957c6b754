"""What the command line shows people: tables, a job's progress, errors. Everything goes to the console it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from api.failures import Refused
from api.plans import Plan, PlannedStage
from api.schemas import Event, Job

SUBJECTS = ("dense", "pruned", "recovered")
_COLOURS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


def jobs_table(jobs: Iterable[Job]) -> Table:
    """One line a job."""
    table = Table(box=None, pad_edge=False)
    for title in ("ID", "STATUS", "STAGE", "MODEL", "METHOD", "CREATED"):
        table.add_column(title, no_wrap=title != "MODEL")
    for job in jobs:
        method = job.recipe.get("method", {})
        table.add_row(
            job.id,
            coloured(job.status),
            job.stage or "",
            escape(str(job.recipe.get("model", {}).get("source", ""))),
            f"{method.get('kind', '')} {method.get('ratio', '')}",
            job.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        )
    return table


def show_job(console: Console, job: Job) -> None:
    """A job's state, its error and its figures."""
    stage = f" ({job.stage})" if job.stage else ""
    console.print(f"{job.id}  {coloured(job.status)}{stage}", highlight=False)
    for name, value in (("reason", job.reason), ("labels", pairs(job.labels)), ("metadata", pairs(job.metadata))):
        if value:
            console.print(f"  {name}: {escape(value)}", highlight=False)
    console.print(f"  attempts: {job.attempts}   events: {job.last_event}", highlight=False)
    if job.error:
        console.print(f"  [red]{escape(job.error.code)}[/]: {escape(job.error.message)}", highlight=False)
    if job.results:
        console.print(results_table(job.results))


def results_table(results: Mapping[str, Any]) -> Table:
    """Dense, pruned and recovered side by side, one line for each figure that was measured."""
    shown = [name for name in SUBJECTS if results.get(name)]
    table = Table(title="Results", title_justify="left")
    table.add_column("")
    for name in shown:
        table.add_column(name, justify="right")
    for title, figures in _figures({name: results[name] for name in shown}):
        table.add_row(title, *(figures.get(name, "") for name in shown))
    return table


def _figures(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    rows = [
        ("parameters", {name: _count(each.get("parameters")) for name, each in results.items()}),
        ("bytes", {name: _count(each.get("bytes")) for name, each in results.items()}),
        ("hidden size", {name: _count(each.get("hidden_size")) for name, each in results.items()}),
    ]
    texts = dict.fromkeys(text for each in results.values() for text in each.get("perplexity") or {})
    for text in texts:
        values = {name: (each.get("perplexity") or {}).get(text) for name, each in results.items()}
        rows.append((f"perplexity {text}", {name: _figure(value) for name, value in values.items()}))
    for task in dict.fromkeys(task for each in results.values() for task in each.get("tasks") or {}):
        told = {name: (each.get("tasks") or {}).get(task) or {} for name, each in results.items()}
        metric = next((each["metric"] for each in told.values() if each.get("metric")), "")
        rows.append((f"{task} {metric}", {name: _score(each) for name, each in told.items()}))
    rows += _speeds({name: each.get("speed") or {} for name, each in results.items()})
    return [(title, figures) for title, figures in rows if any(figures.values())]


def _score(task: Mapping[str, Any]) -> str:
    """A task's figure with its standard error."""
    value, error = task.get("value"), task.get("stderr")
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _speeds(speeds: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """Generation and prompt: the figure, its quotient to dense beside what arithmetic alone would give, the memory."""
    tokens = next((each["prompt_tokens"] for each in speeds.values() if each.get("prompt_tokens")), None)
    rows = []
    for kind, title, rate in (
        ("generation", "tokens/s", "generation_tokens_per_second"),
        ("prompt", f"tokens/s, prompt of {tokens}", "prompt_tokens_per_second"),
    ):
        works = {name: each.get(kind) or {} for name, each in speeds.items()}
        rows += [
            (title, {name: _figure(each.get(rate)) for name, each in speeds.items()}),
            ("  x dense (p10 to p90)", {name: _times_as_fast(work.get("ratio")) for name, work in works.items()}),
            ("  x dense by arithmetic", {name: _times(work.get("ideal_ratio")) for name, work in works.items()}),
            ("  peak memory, MiB", {name: _mebibytes(work.get("peak_bytes")) for name, work in works.items()}),
        ]
    return rows


def _times_as_fast(ratio: Mapping[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _mebibytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 2**20:,.1f}"


def show_plan(console: Console, plan: Plan) -> None:
    """What a job would do, and whether it fits."""
    console.print(plan_table(plan))
    for name in SUBJECTS:
        if name in plan.models:
            size = plan.models[name]
            console.print(f"{name}: {size.parameters:,} parameters, hidden size {size.hidden_size:,}", highlight=False)
    if plan.seconds is not None:
        console.print(f"time left: {duration(plan.seconds)}   GPU-hours: {plan.gpu_hours:.3g}", highlight=False)
    for note in plan.notes:
        console.print(f"[dim]{escape(note)}[/]", highlight=False)
    if plan.refusal:
        console.print(f"[red]{escape(plan.refusal)}[/]", highlight=False)


def plan_table(plan: Plan) -> Table:
    """One line a stage."""
    limit = "" if plan.limit_bytes is None else f" of {gib(plan.limit_bytes)}"
    table = Table(title="Plan", title_justify="left")
    table.add_column("stage")
    table.add_column("result")
    for title in ("predicted time", "basis", f"peak memory{limit}"):
        table.add_column(title, justify="right")
    for stage in plan.stages:
        result = {True: "[green]known[/]", False: _to_compute(stage), None: "[dim]?[/]"}[stage.known]
        seconds = "[dim]?[/]" if stage.seconds is None else duration(stage.seconds)
        peak = "[dim]?[/]" if stage.peak_bytes is None else gib(stage.peak_bytes)
        name = " ".join(part for part in (stage.stage, stage.subject) if part)
        table.add_row(name, result, "" if stage.known else seconds, stage.basis or "", "" if stage.known else peak)
    return table


def _to_compute(stage: PlannedStage) -> str:
    """With the parts that are missing, where others are known."""
    missing = [part.name for part in stage.parts if not part.known]
    return "to compute" if len(missing) == len(stage.parts) else f"to compute: {escape(', '.join(missing))}"


def event_line(event: Event) -> str:
    """An event as one line, in rich's markup."""
    told = "  ".join(f"{name}={_short(value)}" for name, value in event.body.items() if value not in (None, "", [], {}))
    time = event.created_at.astimezone().strftime("%H:%M:%S")
    return f"[dim]{event.number:>5} {time}[/] [bold]{escape(event.type)}[/] {escape(told)}"


def show_refusal(console: Console, refusal: Refused) -> None:
    """The server's error, one line for each thing to put right: `method.ratio: must be …`."""
    problem = refusal.problem
    if not problem.errors:
        console.print(f"[red]{escape(problem.detail)}[/]", highlight=False)
    for item in problem.errors:
        place = item.parameter or _field(item.pointer or "")
        console.print(f"[red]{escape(place)}[/]: {escape(item.detail)}", highlight=False)


class JobProgress:
    """Follows a job on the console: a bar on a terminal, a line per stage elsewhere. Use it in a `with`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tell(self, event: Event) -> None:
        """Show what one event says."""
        body = event.body
        name = " ".join(str(body[part]) for part in ("stage", "subject") if body.get(part))
        match event.type:
            case "stage_started":
                self._begin(f"[{body.get('index', 0) + 1}/{body.get('count', '?')}] {name}")
            case "progress":
                self._advance(name, body)
            case "stage_finished":
                how = "found, not computed again" if body.get("reused") else f"{body.get('seconds', 0):.1f} s"
                self._console.print(f"  {escape(name)}: {how}", highlight=False)
            case "notice":
                self._console.print(f"  {escape(str(body.get('message', '')))}", highlight=False)
            case kind if kind.startswith(("job_", "attempt_")):
                self._console.print(event_line(event), highlight=False)

    def _begin(self, title: str) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(escape(title), total=None, figures="")
        if not self._console.is_terminal:
            self._console.print(escape(title), highlight=False)

    def _advance(self, name: str, body: Mapping[str, Any]) -> None:
        if self._task is None:
            self._begin(name)
        loss = (body.get("metrics") or {}).get("loss")
        figures = f"loss {loss:.4g}" if isinstance(loss, int | float) else ""
        assert self._task is not None  # noqa: S101  # begun above
        self._bar.update(self._task, completed=body.get("step", 0), total=body.get("steps"), figures=figures)


def _field(pointer: str) -> str:
    """A pointer as people write fields: `method.ratio`, `evaluate.perplexity[0].path`."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    if parts[:1] in (["recipe"], ["search"]) and len(parts) > 1:
        parts = parts[1:]
    return "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in parts).lstrip(".") or "the body"


def coloured(status: str) -> str:
    """A status in its colour, in rich's markup."""
    colour = _COLOURS.get(status)
    return f"[{colour}]{status}[/]" if colour else status


def pairs(named: Mapping[str, Any]) -> str:
    """Labels or metadata in one line."""
    return ", ".join(f"{name}={value}" for name, value in named.items())


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _figure(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else ""


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gib(size_bytes: int) -> str:
    """Bytes as people say them."""
    return f"{size_bytes / 2**20:,.0f} MiB" if size_bytes < 2**30 else f"{size_bytes / 2**30:,.1f} GiB"


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:119] + "…"
