"""Rung decisions: those of Ray Tune's own scheduler, of one kind of trial only, and from the record alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.contracts.search import Asha, Median
from workers.contracts.trials import Decision, TrialRecord, TrialReported
from workers.searching.early_stopping import decide


def trial(number: int, losses: list[float | None], **point: Any) -> TrialRecord:
    reports = [TrialReported(trial=number, rung=rung, value=loss, decision="go_on") for rung, loss in enumerate(losses)]
    return TrialRecord(trial=number, point=point or {"method.strength": float(number)}, reports=reports)


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), min_size=1, max_size=14),
    reduction=st.sampled_from([2, 3, 4]),
)
def test_asha_decides_as_ray_tunes(losses: list[list[float]], reduction: int) -> None:
    """Trials come one after the other; Tune's rungs are at 1, η and η² iterations."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

    asha = AsyncHyperBandScheduler(
        time_attr="t", metric="loss", mode="min", max_t=reduction**3, grace_period=1, reduction_factor=reduction
    )
    record: list[TrialRecord] = []
    for number, mine in enumerate(losses, start=1):
        theirs: Any = SimpleNamespace(trial_id=str(number))
        asha.on_trial_add(None, theirs)
        here = trial(number, [])
        for rung, loss in enumerate(mine):
            answer = asha.on_trial_result(None, theirs, {"t": reduction**rung, "loss": loss})
            decision = decide(Asha(reduction=reduction), here, rung, loss, record)
            assert (decision == "stop") == (answer == TrialScheduler.STOP)
            here = trial(number, mine[: rung + 1])
            if decision == "stop":
                break
        record.append(here)


def asha(value: float | None, others: list[TrialRecord], **point: Any) -> Decision:
    return decide(Asha(reduction=2), trial(99, [], **point), 0, value, others)


def test_only_trials_of_one_kind_are_compared() -> None:
    good = [trial(number, [0.1], **{"method.ratio": 0.2, "method.strength": 0.1}) for number in range(1, 5)]
    for field, other in {"method.ratio": 0.5, "data.name": "ptb", "model.source": "x"}.items():
        assert asha(9.0, good, **{"method.ratio": 0.2, "method.strength": 0.7, field: other}) == "go_on", field
    assert asha(9.0, good, **{"method.ratio": 0.2, "method.strength": 0.7}) == "stop"
    whole = [trial(number, [0.1], method={"kind": "dress", "ratio": 0.2, "strength": 0.1}) for number in range(1, 5)]
    assert asha(9.0, whole, method={"kind": "dress", "ratio": 0.2, "strength": 0.3}) == "stop"
    assert asha(9.0, whole, method={"kind": "dress", "ratio": 0.3}) == "go_on"


def test_a_loss_that_is_no_number_ends_the_trial_and_spoils_nothing() -> None:
    assert asha(None, []) == "stop" == asha(float("nan"), [])
    assert asha(1.0, [trial(1, [None]), trial(2, [None])]) == "go_on"


def test_the_rungs_of_asha_lie_a_factor_apart() -> None:
    assert Asha().rungs == pytest.approx((1 / 9, 1 / 3))
    assert Asha(reduction=2, first_fraction=0.2).rungs == pytest.approx((0.2, 0.4, 0.8))
    assert Asha(reduction=4, first_fraction=0.9).rungs == (0.9,)


def test_median_stopping() -> None:
    """The best value so far against the median of the others' running means up to the same rung."""
    others = [trial(1, [4.0, 2.0]), trial(2, [6.0, 4.0]), trial(3, [8.0, 6.0])]  # running means 3, 5, 7
    settings_ = Median(least_trials=3)
    here = trial(9, [9.0])
    assert decide(settings_, here, 1, 5.1, others) == "stop"
    assert decide(settings_, here, 1, 4.9, others) == "go_on"
    assert decide(settings_, trial(9, [4.0]), 1, 5.1, others) == "go_on", "it was better once"
    assert decide(settings_, here, 1, 50.0, others[:2]) == "go_on", "too few to judge by"
    assert decide(settings_, here, 1, 50.0, [*others[:2], trial(3, [8.0])]) == "go_on", "one has not come so far"
