"""Followers that look for the same share the answer, and none is left with an older one than its wake-up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.tail import Tail
from service.database.session import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Nobody follows here, so that it is never asked."""
    database = Database(f"sqlite:///{tmp_path / 'none.sqlite3'}")
    yield database
    database.dispose()


def test_those_who_ask_for_the_same_share_the_answer(database: Database) -> None:
    asked: list[int] = []
    may_end = threading.Event()

    def read(number: int) -> Callable[[], int]:
        def answer() -> int:
            asked.append(number)
            may_end.wait(10)
            return number

        return answer

    async def ask() -> list[int]:
        tail = Tail(database)
        first = [asyncio.create_task(tail.shared("job_1", 5, read(1))) for _ in range(20)]
        other = asyncio.create_task(tail.shared("job_1", 6, read(2)))
        await asyncio.sleep(0)
        tail._wake(["job_1"])
        after_news = [asyncio.create_task(tail.shared("job_1", 5, read(3))) for _ in range(20)]
        await asyncio.sleep(0)
        may_end.set()
        return await asyncio.gather(*first, other, *after_news)

    assert asyncio.run(ask()) == [1] * 20 + [2] + [3] * 20
    assert sorted(asked) == [1, 2, 3]


def test_an_answer_is_not_kept(database: Database) -> None:
    async def ask() -> list[int]:
        tail = Tail(database)
        found = [await tail.shared("job_1", 5, lambda number=number: number) for number in range(3)]
        assert tail._reading == {}
        return found

    assert asyncio.run(ask()) == [0, 1, 2]


def test_a_failed_look_is_told_to_all_and_tried_again(database: Database) -> None:
    def broken() -> int:
        raise RuntimeError("no database")

    async def ask() -> list[object]:
        tail = Tail(database)
        told = await asyncio.gather(*(tail.shared("job_1", 5, broken) for _ in range(3)), return_exceptions=True)
        return [*(type(each) for each in told), await tail.shared("job_1", 5, lambda: 7)]

    assert asyncio.run(ask()) == [RuntimeError] * 3 + [7]
