"""How much memory a block of work takes at its highest, as the device or the system counts it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_HIGH_WATER = "5"
"""What Linux wants to read in `clear_refs` to let the high-water mark fall to what is resident now."""


@dataclass
class Peak:
    """Filled when the block ends."""

    before_bytes: int
    """Held when the block began: by tensors on a GPU; resident on a CPU, so Python and its libraries too."""
    bytes: int | None = None
    """The highest during the block, counted as `before_bytes` is; None where the system does not tell."""


@contextmanager
def measured_peak(device: torch.device) -> Iterator[Peak]:
    """The peak of a block.

    On a GPU it is the allocator's, of this process alone. On a CPU it is the resident size of the whole process, pages
    of mapped files included, from Linux's high-water mark; attempts that share a process measure each other too.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        peak = Peak(torch.cuda.memory_allocated(device))
        try:
            yield peak
        finally:
            peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    peak = Peak(psutil.Process().memory_info().rss)
    is_reset = _reset_high_water()
    try:
        yield peak
    finally:
        peak.bytes = _high_water_bytes() if is_reset else None


def _reset_high_water() -> bool:
    """Whether the mark could be reset; without that it may tell of an earlier stage."""
    try:
        _CLEAR.write_text(_FORGET_HIGH_WATER, encoding="ascii")
    except OSError:
        return False
    return True


def _high_water_bytes() -> int | None:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
