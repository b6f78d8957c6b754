"""Whether an attempt's device has room for what is to be computed, found out before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from workers.contracts.recipe import Recipe
from workers.errors import OutOfMemory
from workers.planning import needs

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux tells a container's own limit; `max` if it has none."""


def require_room(recipe: Recipe, folder: Path, device: torch.device, stages: Iterable[needs.Stage]) -> None:
    """Let pass what fits on an empty device: what its neighbours hold may be gone when the memory is needed.

    Args:
        folder: the dense model's.
        stages: those that are to be computed.
    Raises:
        OutOfMemory: it cannot fit; the message has the figures and what to change.
        AttributeError, LookupError: the need cannot be told; see `forecast.sizes_of`.
    """
    refusal = needs.refusal(needs.rules_for(recipe, folder), stages, device_bytes(device))
    if refusal:
        raise OutOfMemory(refusal)


def predicted_bytes(recipe: Recipe, folder: Path, stage: needs.Stage) -> int | None:
    """The predicted peak of a stage; None where it cannot be told."""
    try:
        return needs.peak_bytes(needs.rules_for(recipe, folder).items(stage))
    except (AttributeError, LookupError):
        return None


def device_bytes(device: torch.device) -> int:
    """All memory of the device; for a CPU the machine's, or the container's if that is less."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total_bytes = psutil.virtual_memory().total
    try:
        limit = _CGROUP_LIMIT.read_text("ascii").strip()
    except OSError:
        return total_bytes
    return min(total_bytes, int(limit)) if limit.isdecimal() else total_bytes
