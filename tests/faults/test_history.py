"""A history that several processes write is read whole and in order, by whoever follows it too."""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.history import History, Tail, facts


def test_what_two_write_is_read_in_the_order_of_the_writes(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    one, other = History(file), History(file)
    for number in range(50):
        (one, other)[number % 2].add("told", number=number)
    assert [fact["number"] for fact in facts(file)] == list(range(50))


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    told = History(tmp_path / "history.jsonl")
    child = os.fork()
    if child == 0:
        told.add("told", text="x" * 100_000)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    told.add("end")
    assert [fact["what"] for fact in facts(told.file)] == ["told", "end"]


def test_a_follower_gets_each_fact_once_and_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    told = History(file)
    tail = Tail(file)
    assert tail.read() == []
    told.add("post", key="a")
    with file.open("ab") as stream:
        stream.write(b'{"what": "po')
    assert [fact["what"] for fact in tail.read()] == ["post"]
    with file.open("ab") as stream:
        stream.write(b'sted", "at": 1.0}\n')
    assert [fact["what"] for fact in tail.read()] == ["posted"]
    assert tail.read() == []
