"""The campaign's stand-in for a cluster: it loses what a cluster would lose, and tells as a cluster would."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.dispatch.runner import News
from tests.faults import history, node, staged_pipeline
from tests.faults.node_runner import NodeRunner
from tests.processes import until
from workers.actor import Order
from workers.local_store import LocalStore

FIRST, SECOND = "att_first", "att_second"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose node is killed at the end."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv(history.PLACE, str(tmp_path / "history.jsonl"))
    monkeypatch.setenv(staged_pipeline.PACE, "0.01")
    monkeypatch.setenv(staged_pipeline.FULL, str(tmp_path / "disk-full"))
    yield tmp_path
    lose_node(tmp_path)


def lose_node(state: Path) -> None:
    """Kill the node with all that it forked, and wait until it is dead."""
    found = node.recorded(state)
    if found is not None and found.lives:
        os.killpg(found.pid, signal.SIGKILL)
        until(lambda: not found.lives)


def order(state: Path, attempt_id: str) -> Order:
    recipe = {"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}, "seed": 3}
    return Order(attempt_id, "job_1", recipe, {}, LocalStore(state / "store"), "tests.faults.staged_pipeline:run")


def pid_of(state: Path, attempt_id: str) -> int:
    found = node.recorded(state)
    assert found is not None
    there = NodeRunner.look(found)
    assert there is not None
    return there[attempt_id]


def next_news(runner: NodeRunner) -> News:
    news: list[News] = until(lambda: runner.wait(0.5))
    return news[0]


def types_of(runner: NodeRunner, attempt_id: str, after: int = 0) -> list[str]:
    """What an attempt tells, to its end."""
    found: list[str] = []
    while not found or not found[-1].startswith("pipeline_"):
        runner.follow(attempt_id, after + len(found))
        found += [numbered.event.type for numbered in next_news(runner).events]
    return found


def test_an_attempt_runs_in_a_process_of_its_own(state: Path) -> None:
    runner = NodeRunner(state, cpus=2)
    runner.start(order(state, FIRST))
    assert runner.attempts() == {FIRST} and runner.free().cpus == 1 and runner.total().cpus == 2
    assert types_of(runner, FIRST)[-1] == "pipeline_succeeded"
    begun = [fact for fact in history.facts(state / "history.jsonl") if fact["what"] == "begun"]
    assert [fact["pid"] for fact in begun] == [pid_of(state, FIRST)]
    runner.stop(FIRST)
    runner.stop(FIRST)
    assert runner.attempts() == set() and runner.free().cpus == 2


def test_a_killed_attempt_is_lost_and_the_others_are_not(state: Path) -> None:
    runner = NodeRunner(state, cpus=2)
    for attempt_id in (FIRST, SECOND):
        runner.start(order(state, attempt_id))
    runner.follow(FIRST, 100)  # waits for what will not come
    os.kill(pid_of(state, FIRST), signal.SIGKILL)
    news = next_news(runner)
    assert (news.events, news.ending) == ([], None), "its answer broke off, which may be the line's fault"
    runner.follow(FIRST, 0)
    ending = next_news(runner).ending
    assert ending is not None and ending.code == "worker_lost"
    assert types_of(runner, SECOND)[-1] == "pipeline_succeeded"


def test_a_stopped_attempt_is_silent_but_not_lost(state: Path) -> None:
    runner = NodeRunner(state, cpus=2)
    runner.start(order(state, FIRST))
    pid = pid_of(state, FIRST)
    os.kill(pid, signal.SIGSTOP)
    runner.follow(FIRST, 0)
    assert runner.wait(0.2) == [] and runner.attach(FIRST)
    os.kill(pid, signal.SIGCONT)
    assert next_news(runner).ending is None


def test_two_runners_share_a_node_and_find_its_successor(state: Path) -> None:
    one, other = NodeRunner(state, cpus=2), NodeRunner(state, cpus=2)
    one.start(order(state, FIRST))
    assert other.attach(FIRST) and not other.attach(SECOND)
    assert not one.recover() and not other.recover()
    lose_node(state)
    assert one.recover()
    one.start(order(state, SECOND))
    with pytest.raises(OSError, match="refused|No such file"):
        other.start(order(state, FIRST))  # it knows the old node only
    assert other.attach(SECOND), "adopted where it is now"
    assert other.recover() and not other.recover()
    assert other.attempts() == {SECOND}
    assert not other.attach(FIRST)


def test_a_full_disk_fails_an_attempt_for_a_reason_that_passes(state: Path) -> None:
    (state / "disk-full").touch()
    runner = NodeRunner(state, cpus=1)
    runner.start(order(state, FIRST))
    assert types_of(runner, FIRST)[-1] == "pipeline_failed"
    (state / "disk-full").unlink()
    runner.start(order(state, SECOND))
    assert types_of(runner, SECOND)[-1] == "pipeline_succeeded"
