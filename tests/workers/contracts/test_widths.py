"""Widths and blocks: what is kept is near what was asked for, allowed, and never all or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contracts.widths import blocks_removed, width_kept, width_sliced
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


@given(blocks=st.integers(3, 200), ratio=st.floats(0.01, 0.9))
def test_blocks_are_whole_and_the_ends_stay(blocks: int, ratio: float) -> None:
    try:
        count = blocks_removed(blocks, ratio)
    except RecipeError as refused:
        assert refused.field == "method.ratio"
        assert ratio * blocks <= 0.5 or ratio * blocks >= blocks - 1.5
    else:
        assert 1 <= count <= blocks - 2 and abs(count - ratio * blocks) <= 0.5


@pytest.mark.parametrize("blocks", [1, 2])
def test_two_blocks_are_no_choice(blocks: int) -> None:
    with pytest.raises(RecipeError, match="cuts channels") as refused:
        blocks_removed(blocks, 0.5)
    assert refused.value.field == "method.kind"


@given(width=st.integers(8, 9000), ratio=st.floats(0.0, 0.9), round_to=st.sampled_from([1, 8, 128]))
def test_a_sliced_width_is_rounded_down(width: int, ratio: float, round_to: int) -> None:
    try:
        kept = width_sliced(width, ratio, round_to)
    except RecipeError as refused:
        assert refused.field == "method.round_to" and (1 - ratio) * width < round_to
    else:
        assert kept == width if ratio == 0 else kept % round_to == 0
        assert kept - 1e-6 * width <= (1 - ratio) * width < kept + round_to


def test_rounding_is_not_led_astray_by_binary_fractions() -> None:
    assert width_sliced(10, 0.3, 1) == 7 and width_sliced(4096, 0.25, 8) == 3072
