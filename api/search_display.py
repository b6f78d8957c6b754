"""What the command line shows people of searches: lists, where one stands, its trials, its progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from api.display import coloured, duration, event_line, pairs
from api.schemas import Event
from api.searches import QueuedSearch, SearchWork, Trial, Values
from workers.contracts.search import Search
from workers.searching.row import row_of_wire, shown_setting
from workers.searching.table import SearchTable

LOOK_SECONDS, STALE_SECONDS = 0.5, 10.0
"""How often the server is asked what the trials add up to: at most, and at least while they tell anything."""


def searches_table(searches: Iterable[QueuedSearch]) -> Table:
    """One line a search."""
    table = Table(box=None, pad_edge=False)
    for title in ("ID", "STATUS", "TRIALS", "BEST", "TITLE", "CREATED"):
        table.add_column(title, no_wrap=title not in ("BEST", "TITLE"))
    for each in searches:
        table.add_row(
            each.id,
            coloured(each.status),
            f"{each.tally.ended} of {each.trials_at_most}",
            escape(f"{each.best.trial}: {_figures(each.best.values)}") if each.best else "",
            escape(str(each.search.get("title", ""))),
            each.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        )
    return table


def show_search(console: Console, search: QueuedSearch) -> None:
    """Where a search stands: its trials, what it found, what it cost, when it may end."""
    show_status(console, search)
    told = (
        ("title", search.search.get("title")),
        ("labels", pairs(search.labels)),
        ("metadata", pairs(search.metadata)),
        ("trials", _standing(search)),
        ("best", _best(search)),
        ("frontier", _frontier(search)),
        ("work", work_in_words(search.work)),
        ("avoided", avoided_in_words(search.work)),
        ("left", f"about {duration(search.eta_seconds)}" if search.eta_seconds else ""),
    )
    for name, value in told:
        if value:
            console.print(f"  {name}: {escape(str(value))}", highlight=False)
    console.print(f"  attempts: {search.attempts}   events: {search.last_event}", highlight=False)


def show_status(console: Console, search: QueuedSearch) -> None:
    """Its status, and why."""
    console.print(f"{search.id}  {coloured(search.status)}", highlight=False)
    if search.reason:
        console.print(f"  reason: {escape(search.reason)}", highlight=False)
    if search.error:
        console.print(f"  [red]{escape(search.error.code)}[/]: {escape(search.error.message)}", highlight=False)


def search_table(search: QueuedSearch, trials: Iterable[Trial]) -> SearchTable:
    """The trials side by side, the best marked."""
    asked = Search.model_validate(search.search, extra="ignore")  # what a newer server adds
    rows = [row_of_wire(asked, trial.model_dump(mode="json"), since=search.started_at) for trial in trials]
    return SearchTable(asked.title or search.id, asked, rows)


def show_trials(console: Console, made: SearchTable) -> None:
    """The table of the trials, what it comes to, and what went wrong."""
    titles, *lines = made.lines()
    table = Table(title=escape(made.title), title_justify="left")
    for place, title in enumerate(titles):
        table.add_column(escape(title), justify="right" if place else "left")
    for line in lines:
        style = "bold green" if line[0].endswith("(best)") else None
        table.add_row(*map(escape, line), style=style)
    console.print(table)
    for remark in (*made.remarks(), *made.faults()):
        console.print(escape(remark), highlight=False)


def work_in_words(work: SearchWork) -> str:
    """What the trials cost, and what was not computed again."""
    share = "" if work.avoided_fraction is None else f" ({work.avoided_fraction:.0%})"
    return f"{work.spent_seconds:,.1f} s spent, {work.avoided_seconds:,.1f} s avoided{share}"


def avoided_in_words(work: SearchWork) -> str:
    """What was not computed again, by stage; empty if all was computed."""
    return ", ".join(f"{stage} {seconds:,.1f} s" for stage, seconds in work.avoided_by_stage.items())


class SearchProgress:
    """Follows a search on the console: a bar for all trials and one for each under way on a terminal, elsewhere a
    line for each that ends. Use it in a `with`."""

    def __init__(self, console: Console, search: QueuedSearch) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._objectives = [each.metric for each in Search.model_validate(search.search, extra="ignore").objectives]
        self._all = self._bars.add_task("trials", total=search.trials_at_most, figures="")
        self._running: dict[int, TaskID] = {}
        self._has_news = False
        self._looked_at = float("-inf")
        self._summed_up = search.tally.ended
        """Trials that had ended when the console was last told what they add up to."""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._bars.stop()

    @property
    def wants_a_look(self) -> bool:
        """Whether what the trials add up to may have changed since the last look."""
        since = time.monotonic() - self._looked_at
        return since >= (LOOK_SECONDS if self._has_news else STALE_SECONDS)

    def look(self, search: QueuedSearch) -> None:
        """Show what the trials add up to."""
        self._has_news, self._looked_at = False, time.monotonic()
        ended, at_most = search.tally.ended, search.trials_at_most
        told = [f"{ended} of {at_most} trials"]
        if search.best is not None:
            told.append(f"best so far: trial {search.best.trial}, {_figures(search.best.values)}")
        if search.eta_seconds:
            told.append(f"about {duration(search.eta_seconds)} left")
        if search.work.avoided_seconds:
            told.append(work_in_words(search.work))
        self._bars.update(self._all, completed=ended, total=at_most, figures=escape("   ".join(told)))
        if not self._console.is_terminal and ended != self._summed_up:
            self._console.print(f"  {escape('   '.join(told))}", highlight=False)
        self._summed_up = ended

    def tell(self, event: Event) -> None:
        """Show what one event says."""
        body = event.body
        match event.type:
            case "trial_proposed":
                self._has_news = True
                self._begin(body["trial"], body.get("point") or {})
            case "trial_progressed":
                self._advance(body["trial"], body)
            case "trial_finished":
                self._has_news = True
                self._end(body["trial"], body)
            case "notice":
                self._console.print(f"  {escape(str(body.get('message', '')))}", highlight=False)
            case kind if kind.startswith(("job_", "search_", "attempt_")):
                self._has_news = True
                self._console.print(event_line(event), highlight=False)

    def _begin(self, trial: int, point: Mapping[str, Any]) -> None:
        if trial in self._running:
            return
        settings = "  ".join(f"{name} {shown_setting(name, value)}" for name, value in point.items())
        self._running[trial] = self._bars.add_task(escape(f"  trial {trial}"), total=1.0, figures=escape(settings))
        if not self._console.is_terminal:
            self._console.print(escape(f"trial {trial}: {settings}"), highlight=False)

    def _advance(self, trial: int, body: Mapping[str, Any]) -> None:
        if trial not in self._running:
            self._running[trial] = self._bars.add_task("", total=1.0, figures="")
        loss = (body.get("metrics") or {}).get("loss")
        figures = f"loss {loss:.4g}" if isinstance(loss, int | float) else ""
        stage = str(body.get("stage", ""))
        self._bars.update(
            self._running[trial],
            description=escape(f"  trial {trial} {stage}"),
            completed=body.get("fraction", 0.0),
            figures=escape(f"{body.get('fraction', 0.0):.0%}  {figures}"),
        )

    def _end(self, trial: int, body: Mapping[str, Any]) -> None:
        if trial in self._running:
            self._bars.remove_task(self._running.pop(trial))
        words = [f"trial {trial} {body.get('status')}"]
        if body.get("values"):
            words.append(_figures(dict(zip(self._objectives, body["values"], strict=False))))
        elif body.get("message"):
            words.append(str(body["message"]))
        words.append(f"{body.get('seconds', 0):.1f} s")
        if body.get("avoided_seconds"):
            words.append(f"{body['avoided_seconds']:.1f} s avoided")
        self._console.print(f"  {escape('  '.join(words))}", highlight=False)


def _standing(search: QueuedSearch) -> str:
    counts = {status: count for status, count in search.tally.model_dump().items() if count}
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{search.tally.ended} of {search.trials_at_most} ended" + (f" ({by_status})" if by_status else "")


def _best(search: QueuedSearch) -> str:
    if search.best is None:
        return "none yet"
    return f"trial {search.best.trial}, {_figures(search.best.values)}"


def _frontier(search: QueuedSearch) -> str:
    """Only where there is more to it than the best."""
    told = [f"{each.trial} ({', '.join(_figure(value) for value in each.values.values())})" for each in search.frontier]
    return f"trials {', '.join(told)}" if len(told) > 1 else ""


def _figures(values: Values) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in values.items())


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:,.0f}" if value >= 10_000 else f"{value:.4g}"
