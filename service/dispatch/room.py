"""The cluster's room, and who gets it: a walk along the queue that lets no large job be starved by small ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from service import backlog
from service.database.tables import Job
from service.dispatch.runner import Capacity
from workers.contracts.recipe import Recipe, Resources
from workers.contracts.search import Search

OTHER_VERSION = "its recipe was written by another version, which this dispatcher cannot read"


@dataclass(frozen=True)
class Placement:
    """Whether a waiting job may start."""

    slots: int
    """How many times it takes its resources: once, or a search's trials at once. 0 lets it wait."""
    reason: str | None = None
    """Why it waits."""


class Room:
    """Room for attempts, used up by the waiting jobs in their order."""

    def __init__(self, total: Capacity, free: Capacity, booked: Iterable[tuple[Resources, int]]) -> None:
        """`booked`: what is leased. Ray counts an attempt only once it is placed, and a search's trials only while
        they run; the database counts both as soon as they are leased."""
        unbooked = total
        for resources, slots in booked:
            unbooked = unbooked.minus(resources, min(slots, total.times(resources)))
        self._total = total
        self._left = Capacity(min(free.cpus, unbooked.cpus), min(free.gpus, unbooked.gpus))

    @property
    def is_full(self) -> bool:
        """Whether nothing more can start: every job takes at least one CPU."""
        return self._left.cpus < 1

    def place(self, job: Job, spec: dict[str, Any] | None) -> Placement:
        """Give the next job its room. One that must wait keeps its room reserved, lest smaller ones starve it; one
        that can never start here reserves nothing. A search takes less than it wants where the cluster is smaller.

        Args:
            spec: of a search, what is asked of it.
        """
        wanted = backlog.resources(job.recipe)
        slots = min(job.slots, self._total.times(wanted))
        if slots < 1:
            return Placement(0, f"needs {_words(wanted)}; the whole cluster has {_words(self._total)}")
        if not _is_readable(job, spec):
            return Placement(0, OTHER_VERSION)
        before, self._left = self._left, self._left.minus(wanted, slots)
        if before.times(wanted) >= slots:
            return Placement(slots)
        at_once = f", for {slots} trials at once" if slots > 1 else ""
        return Placement(0, f"waits until {_words(wanted, slots)} are free{at_once}")


def _is_readable(job: Job, spec: dict[str, Any] | None) -> bool:
    try:
        Recipe.model_validate(job.recipe)
        if job.kind == "search":
            Search.model_validate(spec)
    except ValidationError:
        return False
    return job.kind in ("job", "search")


def _words(amount: Resources | Capacity, times: int = 1) -> str:
    return f"{amount.cpus * times:g} CPU and {amount.gpus * times:g} GPU"
