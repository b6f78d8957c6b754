"""Which trial is the best, and which are beaten by none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from workers.contracts.search import Search
from workers.contracts.trials import TrialFinished


def best(search: Search, finished: Iterable[TrialFinished]) -> int | None:
    """Number of the feasible trial with the best first objective; the later ones decide between equals, then age.

    None while no trial has been measured with every constraint kept.
    """
    ranked = [(_turned(search, each), each.trial) for each in finished if each.is_feasible]
    return min(ranked)[1] if ranked else None


def frontier(search: Search, finished: Iterable[TrialFinished]) -> list[int]:
    """Numbers of the feasible trials that no other beats: at least as good in all objectives and better in one.

    Of trials with equal values the oldest stands for all. In the order of the first objective, best first.
    """
    ranked = sorted((_turned(search, each), each.trial) for each in finished if each.is_feasible)
    kept: list[tuple[tuple[float, ...], int]] = []
    for values, trial in ranked:  # whoever beats a trial stands before it
        if not any(_covers(other, values) for other, _ in kept):
            kept.append((values, trial))
    return [trial for _, trial in kept]


def _turned(search: Search, finished: TrialFinished) -> tuple[float, ...]:
    """Values turned so that less is better."""
    pairs = zip(search.objectives, finished.values or [], strict=True)
    return tuple(objective.better(value) for objective, value in pairs if value is not None)


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(mine <= theirs for mine, theirs in zip(one, other, strict=True))
