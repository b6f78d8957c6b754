"""The growth at the peak: what was taken and not given back in between, and nothing from before."""

from __future__ import annotations

import torch

from workers.allocations import growth_at_peak

CPU = torch.device("cpu")


def test_the_highest_sum_counts_not_the_last() -> None:
    with growth_at_peak(CPU) as growth:
        first = torch.empty(1000, 1000)
        second = torch.empty(500, 1000)
        del first
        third = torch.empty(100)
    assert growth.bytes == 4 * 1_500_000
    assert second.shape and third.shape


def test_what_was_held_before_does_not_count() -> None:
    before = torch.ones(1000, 1000)
    with growth_at_peak(CPU) as growth:
        kept = torch.empty(1000)
        kept += before[0]
    assert growth.bytes == 4 * 1000 and kept.shape


def test_a_kernel_s_own_tensors_count() -> None:
    square = torch.ones(200, 200)
    with growth_at_peak(CPU) as growth:
        doubled = square.double() @ square.double()
    assert growth.bytes == 3 * 8 * 200 * 200 and doubled.shape


def test_nothing_taken_is_no_growth() -> None:
    with growth_at_peak(CPU) as growth:
        pass
    assert growth.bytes == 0
