"""The shell around an attempt: numbers, long polls, acknowledgement, the last word, workspaces."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import actor
from workers.actor import Order, Shell, sweep_workspaces, workspace
from workers.contracts.events import Event, Notice, Succeeded
from workers.contracts.results import Results
from workers.local_store import LocalStore

RECIPE = {"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def shell_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pipeline: Any, **changes: Any) -> Shell:
    """A shell whose pipeline is this function."""
    monkeypatch.setattr(actor, "_injected", pipeline, raising=False)
    order = Order(
        attempt_id="att_1",
        owner="job_1",
        recipe=RECIPE,
        places={},
        store=LocalStore(tmp_path / "store"),
        pipeline="workers.actor:_injected",
        **changes,
    )
    return Shell(order)


def all_events(shell: Shell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while not (found and found[-1]["event"]["type"] in ("pipeline_succeeded", "pipeline_failed")):
        assert time.monotonic() < deadline
        found += shell.events(len(found), 5.0)["events"]
    return found


def test_events_are_numbered_and_the_workspace_is_gone_at_the_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders: list[Path] = []

    def pipeline(recipe: Any, store: Any, folder: Path, places: Any, owner: str) -> Iterator[Event]:
        folders.append(folder)
        (folder / "large").write_text("x")
        yield Notice(message="one")
        yield Succeeded(results=Results())

    shell = shell_of(monkeypatch, tmp_path, pipeline)
    shell.start()
    assert [item["sequence"] for item in all_events(shell)] == [1, 2]
    assert not folders[0].exists() and not list(folders[0].parent.iterdir())


def test_rungs_are_told_to_those_who_know_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pipeline that takes five arguments runs as long as nobody asks for rungs."""
    told: list[Any] = []

    def plain(recipe: Any, store: Any, folder: Path, places: Any, owner: str) -> Iterator[Event]:
        yield Succeeded(results=Results())

    def asked(recipe: Any, store: Any, folder: Path, places: Any, owner: str, rungs: Any = ()) -> Iterator[Event]:
        told.append(rungs)
        yield Succeeded(results=Results())

    for pipeline, rungs in ((plain, ()), (asked, ()), (asked, (0.1, 0.5))):
        shell = shell_of(monkeypatch, tmp_path, pipeline, rungs=rungs)
        shell.start()
        assert [item["event"]["type"] for item in all_events(shell)] == ["pipeline_succeeded"]
    assert told == [(), (0.1, 0.5)]


def test_a_question_waits_for_news_and_no_longer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go = threading.Event()

    def pipeline(recipe: Any, store: Any, folder: Path, places: Any, owner: str) -> Iterator[Event]:
        go.wait(20)
        yield Succeeded(results=Results())

    shell = shell_of(monkeypatch, tmp_path, pipeline)
    shell.start()
    assert shell.events(0, 0.01)["events"] == []
    threading.Timer(0.05, go.set).start()
    assert [item["sequence"] for item in shell.events(0, 20.0)["events"]] == [1]
    assert shell.events(1, 20.0)["events"] == [], "after the last word nothing is waited for"


def test_what_is_committed_is_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def pipeline(recipe: Any, store: Any, folder: Path, places: Any, owner: str) -> Iterator[Event]:
        yield from (Notice(message=str(n)) for n in range(4))
        yield Succeeded(results=Results())

    shell = shell_of(monkeypatch, tmp_path, pipeline)
    shell.start()
    deadline = time.monotonic() + 20
    while len(shell.events(0, 0.01)["events"]) < 5:
        assert time.monotonic() < deadline
    assert [item["sequence"] for item in shell.events(3, 0)["events"]] == [4, 5]
    assert [item["sequence"] for item in shell.events(0, 0)["events"]] == [4, 5]
    assert [item["sequence"] for item in shell.events(4, 0)["events"]] == [5]


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), SystemExit(3), None])
def test_there_is_always_a_last_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException | None
) -> None:
    def pipeline(recipe: Any, store: Any, folder: Path, places: Any, owner: str) -> Iterator[Event]:
        yield Notice(message="soon")
        if error:
            raise error

    shell = shell_of(monkeypatch, tmp_path, pipeline)
    shell.start()
    last = all_events(shell)[-1]["event"]
    assert (last["type"], last["fault"], last["code"]) == ("pipeline_failed", "transient", "attempt_broke")


def test_a_missing_pipeline_is_told(tmp_path: Path) -> None:
    order = Order("att_1", "job_1", RECIPE, {}, LocalStore(tmp_path), pipeline="workers.no_such_module:run")
    shell = Shell(order)
    shell.start()
    assert "no_such_module" in all_events(shell)[-1]["event"]["message"]


def test_a_stopped_attempt_says_nothing_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended = threading.Event()

    def pipeline(recipe: Any, store: Any, folder: Path, places: Any, owner: str) -> Iterator[Event]:
        try:
            while True:
                yield Notice(message="again")
        finally:
            ended.set()

    shell = shell_of(monkeypatch, tmp_path, pipeline)
    shell.start()
    shell.events(0, 20.0)
    shell.stop()
    assert ended.wait(20)
    reached = shell.events(0, 0)["events"][-1]["sequence"]
    assert shell.events(reached, 0)["events"] == []


def test_workspaces_of_the_living_are_kept_and_of_the_dead_swept(tmp_path: Path) -> None:
    with workspace("att_1") as living:
        dead = living.with_name("att_0-dead")
        dead.mkdir()
        dead.with_suffix(".lock").touch()
        sweep_workspaces()
        assert living.exists() and not dead.exists()
    assert not list(living.parent.iterdir())


@pytest.mark.parametrize("theirs", ["link", "file", "open to others", "of another user"])
def test_workspaces_are_made_only_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    ours, another = os.getuid(), os.getuid() + 1
    root, elsewhere = tmp_path / f"dress-workspaces-{ours}", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if theirs == "link":
        root.symlink_to(elsewhere)
    elif theirs == "file":
        root.touch(mode=0o600)
    else:
        root.mkdir(mode=0o700)
        root.chmod(0o777 if theirs == "open to others" else 0o700)
    if theirs == "of another user":
        root.rename(tmp_path / f"dress-workspaces-{another}")
        monkeypatch.setattr("os.getuid", lambda: another)
    sweep_workspaces()
    with pytest.raises(OSError, match="dress-workspaces"), workspace("att_1"):
        pass
    assert not list(elsewhere.iterdir())
