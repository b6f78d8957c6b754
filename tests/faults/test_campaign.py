"""The short form of the fault campaign, on both databases and with a stepped clock; and that equal seeds mean the same.

DRESS_CAMPAIGN_FAULTS and DRESS_CAMPAIGN_SEED set its length (faults in all) and its seed. The long form is a command:
`python -m tests.faults.campaign --help`.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.conftest import BACKENDS
from tests.faults import campaign
from tests.faults.deployment import Shape
from tests.faults.history import History
from tests.faults.injector import Injector, odds, plan
from tests.faults.promises import Verdict

FAULTS = int(os.environ.get("DRESS_CAMPAIGN_FAULTS", "220"))
SEED = int(os.environ.get("DRESS_CAMPAIGN_SEED", "6"))
SHARE = {False: 0.4, True: 0.1}
"""Of all faults, those on each database with a true clock and with a stepped one."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stepped_clock", [False, True], ids=["true clock", "stepped clock"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_promise_breaks(backend: str, stepped_clock: bool, tmp_path: Path) -> None:
    wanted = max(1, round(FAULTS * SHARE[stepped_clock]))
    verdict = campaign.run_slice(tmp_path / "slice", Shape(backend, stepped_clock=stepped_clock), f"{SEED}:1", wanted)
    print(campaign.report([verdict]))
    assert verdict.broken == []
    assert verdict.counted.total() >= 200 / 220 * wanted, "a few may hit what ends by itself at that moment"
    assert verdict.least_in_flight is not None and verdict.least_in_flight >= 20


def test_equal_seeds_give_equal_plans():
    def first(seed: str, shape: Shape) -> list[object]:
        return list(itertools.islice(plan(seed, odds(shape), 2, 9), 50))

    assert first("1", Shape()) == first("1", Shape())
    assert first("1", Shape()) != first("2", Shape())
    assert {fault.kind for fault in itertools.islice(plan("1", odds(Shape()), 2, 9), 500)} == set(odds(Shape()))


def test_what_can_be_broken_depends_on_the_deployment():
    assert "fill_database" in odds(Shape()) and "crash_database" not in odds(Shape())
    assert "crash_database" in odds(Shape("postgresql")) and "fill_database" not in odds(Shape("postgresql"))
    assert "step_clock" in odds(Shape(stepped_clock=True)) and "step_clock" not in odds(Shape())


@pytest.mark.parametrize("shape", [Shape(), Shape("postgresql"), Shape(stepped_clock=True)], ids=str)
def test_every_kind_can_be_carried_out(shape: Shape) -> None:
    assert all(hasattr(Injector, f"_{kind}") for kind in odds(shape))


def test_slices_go_on_where_they_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole ones are judged again, one without an end is run again, and new ones follow until enough has counted."""
    ran: list[str] = []

    class Recorded(campaign.Slice):
        def __init__(self, folder: Path, shape: Shape, seed: str) -> None:
            self._file, self._seed = folder / "history.jsonl", seed

        def run(self, faults: int) -> None:
            ran.append(self._seed)
            write_slice(self._file, faults)

    monkeypatch.setattr(campaign, "Slice", Recorded)
    assert counted(campaign.run(tmp_path, "sqlite", 3, faults=25, of_a_slice=10)) == [10, 10, 5]
    assert ran == ["3:1", "3:2", "3:3"]
    second = tmp_path / "sqlite-3-0002" / "history.jsonl"
    second.write_text(second.read_text("utf-8").replace('"end"', '"started"'), "utf-8")
    assert counted(campaign.run(tmp_path, "sqlite", 3, faults=35, of_a_slice=10)) == [10, 10, 5, 10]
    assert ran == ["3:1", "3:2", "3:3", "3:2", "3:4"]
    assert (tmp_path / "sqlite-3-0004-stepped").is_dir()
    assert campaign.run(tmp_path, "sqlite", 4, faults=1, of_a_slice=1, seconds=0.0) == []


def test_a_broken_promise_is_told_with_the_history_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = tmp_path / "sqlite-3-0001" / "history.jsonl"
    history.parent.mkdir()
    write_slice(history, faults=1)
    history.write_text(history.read_text("utf-8").replace('"workers": []', '"workers": ["att_9"]'), "utf-8")
    monkeypatch.setattr("sys.argv", ["campaign", "--faults", "1", "--seed", "3", "--state", str(tmp_path)])
    assert campaign.main() == 1
    told = capsys.readouterr().out
    assert "leaked: workers of ['att_9']" in told and str(history) in told and "1 broken promises" in told


def write_slice(file: Path, faults: int) -> None:
    """A history of nothing but faults that hit one attempt each, each made good at once."""
    told = History(file)
    hit = {"kind": "stop_attempt", "jobs": ["job_1"], "attempts": ["att_1"], "stages": ["prune"]}
    for number in range(faults):
        told.add("fault", **hit, number=number, ends_attempt=False, in_flight=20, at=float(number))
    told.add("post", key="key", seed=1)
    told.add("wish", job="job_1", verb="cancel")
    row = {"id": "job_1", "status": "cancelled", "recipe": {"seed": 1}, "metadata_": {"key": "key"}, "last_event": 1}
    told.add("row", table="jobs", **row)
    ended = {"job_id": "job_1", "number": 1, "type": "job_cancelled", "attempt_id": None, "body": {}}
    told.add("row", table="events", moment=float(faults), **ended)
    told.add("end", workers=[], processes=[])
    told.close()


def counted(verdicts: list[Verdict]) -> list[int]:
    assert [broken for verdict in verdicts for broken in verdict.broken] == []
    return [verdict.counted.total() for verdict in verdicts]
