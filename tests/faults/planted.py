"""How a process of a campaign is told which part it is, and which bug it has; see `bugs`."""

from __future__ import annotations

import os

BUG = "DRESS_CAMPAIGN_BUG"
"""Environment variable with the name of the bug, if there is one."""
PART = "DRESS_CAMPAIGN_PART"
"""Environment variable with the name of the part that a process is, such as `dispatch-1`."""


def is_planted(name: str) -> bool:
    """Whether this bug is planted in this process."""
    return os.environ.get(BUG) == name
