"""The controls of every method: channels cut at the same ratio, and the dense model, on the same data."""

from __future__ import annotations

from typing import Any

import pytest

from workers.contracts.controls import DENSE, PLAIN, ROTATED, controls_of
from workers.contracts.recipe import Recipe


def controls(**changes: Any) -> dict[str, Recipe]:
    plain = {"model": {"source": "owner/name"}, "data": {"samples": 40}, **changes}
    return controls_of(Recipe.model_validate(plain))


@pytest.mark.parametrize("kind", ["magnitude", "random", "sleb", "slicegpt", "llm_surgeon"])
def test_a_rival_is_compared_with_channels_cut_at_its_ratio(kind: str) -> None:
    found = controls(method={"kind": kind, "ratio": 0.3})
    assert list(found) == [DENSE, ROTATED, PLAIN]
    for title in (ROTATED, PLAIN):
        method = found[title].method
        assert (method.kind, method.ratio, method.solver, method.round_to) == ("dress", 0.3, "none", None)
        assert found[title].recover.kind == "full" and found[title].recover.distillation == 0
        assert found[title].data.regularize_samples == 0
    assert found[ROTATED].method.basis == "auto" and found[PLAIN].method.basis == "channels"


def test_a_rivals_controls_are_those_of_the_papers_preset() -> None:
    """So that a table of several methods has one set of them."""
    paper = controls(method={"kind": "dress", "preset": "paper", "ratio": 0.25})
    for kind in ("magnitude", "random", "sleb", "slicegpt", "llm_surgeon"):
        assert controls(method={"kind": kind, "ratio": 0.25}) == paper


def test_channels_are_rounded_as_the_rival_rounds_them() -> None:
    assert controls(method={"kind": "random", "ratio": 0.25, "round_to": 64})[PLAIN].method.round_to == 64


def test_what_removes_nothing_has_the_dense_control_alone() -> None:
    assert list(controls(method={"kind": "slicegpt", "ratio": 0})) == [DENSE]
    assert list(controls(method={"kind": "dense"})) == [DENSE]
