"""The most that tensors take beyond what they held when a block of work began, counted by torch itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at the first use; else each use prints two lines

_MEMORY_EVENT = "[memory]"
"""How torch's profiler calls a taking or giving back of memory."""


@dataclass
class Growth:
    """Filled when the block ends."""

    bytes: int = 0


@contextmanager
def growth_at_peak(device: torch.device) -> Iterator[Growth]:
    """The growth of a block at its highest.

    On a GPU it is the allocator's mark over what was allocated before. On a CPU it is the highest running sum of what
    torch's allocator gave out and took back, as the profiler records it: unlike a resident size it holds neither
    Python nor freed pages that the C library keeps; what kernel libraries take for themselves is not in it either.
    The profiler slows the block down and takes memory of its own, so nothing is timed here.
    """
    growth = Growth()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before_bytes = torch.cuda.memory_allocated(device)
        yield growth
        torch.cuda.synchronize(device)
        growth.bytes = torch.cuda.max_memory_allocated(device) - before_bytes
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        yield growth
    events = record.profiler.kineto_results.events() if record.profiler else []
    moves = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == _MEMORY_EVENT)
    growth.bytes = max(0, *accumulate(size_bytes for _, size_bytes in moves), 0)
