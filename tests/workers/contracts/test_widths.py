"""Widths: what is kept is near what was asked for, allowed, and never all or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contracts.widths import width_kept
from workers.errors import RecipeError


@given(ratio=st.floats(0.05, 0.95), round_to=st.sampled_from([None, 32, 64, 128]))
def test_the_width_is_the_nearest_multiple(ratio: float, round_to: int | None) -> None:
    kept = width_kept(4096, 32, ratio, round_to)
    multiple = round_to or 32
    assert kept % multiple == 0
    assert abs(kept - (1 - ratio) * 4096) <= multiple / 2
    assert 0 < kept < 4096


@pytest.mark.parametrize(("ratio", "round_to", "field"), [(0.001, None, "method.ratio"), (0.25, 48, "method.round_to")])
def test_what_cannot_be_is_refused(ratio: float, round_to: int | None, field: str) -> None:
    with pytest.raises(RecipeError) as refused:
        width_kept(4096, 32, ratio, round_to)
    assert refused.value.field == field
