"""A search's progress on the console: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from api.schemas import Event
from api.search_display import SearchProgress, searches_table, show_search
from api.searches import EXAMPLE_SEARCH, QueuedSearch


def console(*, is_terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=200, color_system=None)


def written(told: Console) -> str:
    assert isinstance(told.file, io.StringIO)
    return told.file.getvalue()


def event(number: int, type: str, **body: Any) -> Event:
    return Event(
        id=f"evt_{number}",
        job_id="search_1",
        number=number,
        type=type,
        created_at=datetime.now(UTC),
        attempt_id=None,
        body=body,
    )


def search(**changes: Any) -> QueuedSearch:
    return QueuedSearch.model_validate({**EXAMPLE_SEARCH, **changes})


TOLD = [
    event(1, "job_queued"),
    event(2, "trial_proposed", trial=5, point={"method.strength": 0.002, "method.ratio": 0.25}),
    event(3, "trial_progressed", trial=5, stage="regularize", fraction=0.25, metrics={"loss": 1.5}),
    event(4, "trial_progressed", trial=6, stage="recover", fraction=0.5, metrics={}),
    event(5, "notice", message="[red] herring"),
    event(6, "trial_finished", trial=5, status="succeeded", values=[7.12, None], seconds=9.0, avoided_seconds=3.0),
    event(7, "trial_finished", trial=9, status="failed", message="it [broke]", seconds=1.0),
    event(8, "trial_reported", trial=6, rung=0, value=1.0, decision="go_on"),
]


def test_on_a_terminal_each_trial_under_way_has_a_bar() -> None:
    shown = console(is_terminal=True)
    with SearchProgress(shown, search()) as progress:
        for each in TOLD[:4]:
            progress.tell(each)
        progress.look(search())
        progress._bars.refresh()
    text = written(shown)
    for words in ("trial 5 regularize", "25%  loss 1.5", "trial 6 recover", "50%", "11 of 24 trials",
                  "best so far: trial 5, recovered.perplexity.wikitext2 7.12", "2.2 h left", "(30%)"):  # fmt: skip
        assert words in text, words


def test_elsewhere_each_trial_has_a_line_when_it_begins_and_when_it_ends() -> None:
    shown = console(is_terminal=False)
    with SearchProgress(shown, search()) as progress:
        for each in TOLD:
            progress.tell(each)
        progress.look(search())
        assert "11 of 24" not in written(shown), "nothing has ended since it was begun to follow"
        progress.look(search(tally={**EXAMPLE_SEARCH["tally"], "succeeded": 7}))
    text = written(shown)
    for words in ("job_queued", "trial 5: method.strength 0.002  method.ratio 0.25", "[red] herring",
                  "trial 5 succeeded  recovered.perplexity.wikitext2 7.12, parameters not finite  9.0 s  3.0 s avoided",
                  "trial 9 failed  it [broke]  1.0 s", "12 of 24 trials"):  # fmt: skip
        assert words in text, words
    assert "loss" not in text


def test_the_server_is_asked_when_there_is_something_new() -> None:
    with SearchProgress(console(is_terminal=False), search()) as progress:
        assert progress.wants_a_look, "at first"
        progress.look(search())
        progress.tell(TOLD[2])
        assert not progress.wants_a_look, "just asked"


def test_a_search_without_a_best_or_an_end_in_sight_is_shown() -> None:
    shown = console(is_terminal=False)
    bare = search(best=None, frontier=[], eta_seconds=None, reason="no room", error={"code": "x", "message": "y"})
    show_search(shown, bare)
    shown.print(searches_table([bare]))
    text = written(shown)
    assert "best: none yet" in text and "left:" not in text and "reason: no room" in text and "x: y" in text
    assert "frontier" not in text
