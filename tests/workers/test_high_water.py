"""The measured peak is that of the block: not of what came before, and not of what is left at its end."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import pytest
import torch

from workers import high_water
from workers.contracts.results import Results, StageMemory, together
from workers.high_water import measured_peak

CPU = torch.device("cpu")
LARGE, SMALL = 40_000_000, 10_000_000
"""Elements of float32."""

linux_only = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps the mark")


@pytest.fixture(autouse=True)
def _nothing_left_over() -> None:
    """What earlier tests left in this process must neither go during a block nor be used again by it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@linux_only
def test_the_peak_is_the_blocks() -> None:
    torch.ones(LARGE)  # gone again before the block begins
    with measured_peak(CPU) as peak:
        torch.ones(SMALL).sum()
    assert peak.bytes is not None
    taken = peak.bytes - peak.before_bytes
    assert 4 * SMALL * 0.9 < taken < 4 * LARGE * 0.7
    assert peak.before_bytes > 50e6


@linux_only
def test_what_is_freed_in_the_block_counts() -> None:
    with measured_peak(CPU) as peak:
        held = torch.ones(LARGE)
        del held
        torch.ones(3)
    assert peak.bytes is not None and peak.bytes - peak.before_bytes > 4 * LARGE * 0.9


def test_a_peak_is_measured_when_the_block_fails() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), measured_peak(CPU) as peak:
        raise RuntimeError("on purpose")
    assert peak.bytes is None or peak.bytes > 0


def test_a_system_that_does_not_tell_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(high_water, "_CLEAR", tmp_path / "missing" / "file")
    with measured_peak(CPU) as peak:
        pass
    assert peak.bytes is None and peak.before_bytes > 0


def test_of_several_evaluations_the_largest_counts() -> None:
    results = Results()
    for measured in (5, 9, 7):
        results = results.with_memory("evaluate", StageMemory(measured_bytes=measured))
    results = results.with_memory("prune", StageMemory(predicted_bytes=3))
    assert results.memory == {
        "evaluate": StageMemory(measured_bytes=9),
        "prune": StageMemory(predicted_bytes=3),
    }


def test_work_done_in_turns_took_the_highest_peak_and_began_with_the_least() -> None:
    first = StageMemory(predicted_bytes=7, measured_bytes=5, before_bytes=2)
    second = StageMemory(predicted_bytes=7, measured_bytes=6, before_bytes=4)
    assert together([first, None, second]) == StageMemory(predicted_bytes=7, measured_bytes=6, before_bytes=2)
    assert together([None]) == together([]) == StageMemory()
