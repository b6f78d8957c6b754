"""The checker must see bugs: each is planted in the real service, and a short campaign is held against the promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.bugs import BUGS, ELSEWHERE
from tests.faults.campaign import Slice
from tests.faults.deployment import Shape
from tests.faults.history import facts
from tests.faults.promises import judged


@dataclass(frozen=True)
class Trial:
    """A campaign that is short, and bound to show one bug."""

    complaint: str
    """What the checker has to say."""
    weights: dict[str, int] = field(default_factory=lambda: {"kill_attempt": 1})
    faults: int = 3
    seed: int = 0
    """One whose plan has the faults that show the bug."""
    cpus: int = 8
    settle_seconds: float = 60.0


TRIALS = {
    "no_fence": Trial("zombie:", {"stop_dispatcher": 2, "kill_node": 1, "kill_attempt": 2}, faults=10),
    "local_clock": Trial("lease:"),
    "told_before_stored": Trial("artifact:"),
    "event_gap": Trial("gap:"),
    "event_twice": Trial("gap:"),
    "key_forgotten": Trial("duplicate: the key", {"crowd": 1, "kill_attempt": 1}, faults=1, seed=1),
    "answered_too_soon": Trial("lost: job", {"kill_api": 4, "kill_attempt": 1}, faults=1, seed=5),
    "expired_forgotten": Trial("stuck:", {"kill_dispatcher": 1}, faults=1, settle_seconds=10.0),
    # Room enough that those left behind keep nobody out.
    "worker_left": Trial("leaked:", cpus=500),
    "succeeds_again": Trial("duplicate: job"),
    "resume_lost": Trial("stuck:", settle_seconds=15.0),
}


def test_every_bug_is_tried():
    assert set(TRIALS) == set(BUGS) | ELSEWHERE
    assert len(TRIALS) >= 10


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", TRIALS)
def test_the_checker_sees_a_planted_bug(bug: str, tmp_path: Path) -> None:
    trial = TRIALS[bug]
    shape = Shape(bug=bug, cpus=trial.cpus, step_seconds=0.1)
    seed, pace = f"{bug} {trial.seed}", (2, 20)
    Slice(tmp_path, shape, seed, weights=trial.weights, after=pace, settle_seconds=trial.settle_seconds).run(
        trial.faults
    )
    verdict = judged(facts(tmp_path / "history.jsonl"))
    assert [told for told in verdict.broken if told.startswith(trial.complaint)], verdict.broken
