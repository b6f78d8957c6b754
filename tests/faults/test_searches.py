"""The short form of the campaign against searches, and proof that its checker sees what it looks for."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.searches import FAULTS, changed_since, deployed, disturbed, searches_of
from tests.workers.searching.searches import run_through, search
from workers.contracts.trials import SearchRecord, TrialRecord


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_searches_survive_kills(tmp_path: Path) -> None:
    """One after the other and two at once; on real Ray, with whatever the seed has killed."""
    wanted = list(searches_of(3, trials=4))
    rng, hits = random.Random(7), 0
    with deployed(tmp_path) as deployment:
        for name, asked in (wanted[0], wanted[2]):
            verdict = disturbed(deployment, name, asked, rng, most=3)
            assert verdict.broken == []
            assert set(verdict.faults) <= set(FAULTS)
            hits += verdict.faults.total()
    assert hits > 0, "nothing was killed, so nothing was shown"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"point": {"method.strength": 1.0}}, "point or reports changed"),
        ({"reports": []}, "point or reports changed"),
        ({"ended_as": 9}, "end changed"),
        ({"finished": None}, "end changed"),
        (None, "are gone"),
    ],
)
def test_the_checker_sees_a_record_that_changed(change: dict[str, Any] | None, complaint: str, tmp_path: Path) -> None:
    asked = search(scheduler={"kind": "asha", "reduction": 2, "first_fraction": 0.2}, trials=3)
    record, _ = run_through(asked, tmp_path)
    seen: dict[int, Any] = {}
    assert list(changed_since(seen, record)) == [] == list(changed_since(seen, record))
    first, *others = record.trials
    altered: list[TrialRecord] = [] if change is None else [first.model_copy(update=change)]
    assert any(complaint in told for told in changed_since(seen, SearchRecord(trials=[*altered, *others])))
