"""What the dispatcher needs of whatever runs attempts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from service.domain.lease import WORKER_LOST, Ending
from workers.actor import Order
from workers.contracts.events import EVENT, Notice, NumberedEvent
from workers.contracts.recipe import Resources

_LOST = "its worker is gone (killed, out of memory or its node failed)"


@dataclass(frozen=True)
class Capacity:
    """Room for attempts."""

    cpus: float
    gpus: float

    def times(self, wanted: Resources) -> int:
        """How many times there is room for this."""
        amounts = [(self.cpus, max(wanted.cpus, 1)), (self.gpus, wanted.gpus)]
        return max(0, min(int(there // each) for there, each in amounts if each > 0))

    def minus(self, taken: Resources, times: int = 1) -> "Capacity":
        """What is left; below zero where more was reserved than there is."""
        return Capacity(self.cpus - taken.cpus * times, self.gpus - taken.gpus * times)


@dataclass(frozen=True)
class News:
    """What one attempt answered. Neither events nor ending: it had nothing to say, or cannot be reached just now."""

    attempt_id: str
    events: list[NumberedEvent] = field(default_factory=list)
    node: str | None = None
    ending: Ending | None = None


class Runner(Protocol):
    """Runs attempts, each named by its id, and outlives the dispatcher as far as it can."""

    def start(self, order: Order) -> None:
        """Begin an attempt. Returns at once; whatever goes wrong is told by `wait`."""
        ...

    def attach(self, attempt_id: str) -> bool:
        """Whether an attempt that an earlier dispatcher started is still there, to be followed."""
        ...

    def follow(self, attempt_id: str, after: int) -> None:
        """Ask for the events after a sequence; the answer comes by `wait`, once. Those before are committed.
        Of an attempt that this runner does not know, the answer is that its worker is lost."""
        ...

    def wait(self, seconds: float) -> list[News]:
        """Answers as soon as there are some; none after so many seconds."""
        ...

    def stop(self, attempt_id: str) -> None:
        """End an attempt at once and free what it holds. Harmless if there is none."""
        ...

    def attempts(self) -> set[str]:
        """The attempts that are there, whoever started them."""
        ...

    def free(self) -> Capacity:
        """Room now."""
        ...

    def total(self) -> Capacity:
        """Room if nothing ran."""
        ...

    def recover(self) -> bool:
        """See that the cluster is there, and set up a new one where it is gone. True if it had to: no attempt lives."""
        ...

    def close(self) -> None:
        """Let go. Attempts run on, where they can."""
        ...


def lost(attempt_id: str) -> News:
    """What is to be told of an attempt whose worker is gone."""
    return News(attempt_id, ending=Ending("transient", WORKER_LOST, _LOST))


def read_answer(attempt_id: str, answer: Mapping[str, Any]) -> News:
    """An answer of `workers.actor.Shell.events`, in the service's terms."""
    events = [NumberedEvent(sequence=item["sequence"], event=_read(item["event"])) for item in answer["events"]]
    return News(attempt_id, events, node=answer["node"])


def _read(plain: Any) -> Any:
    """An event of another version may be unreadable; the attempt goes on and the numbers stay whole."""
    try:
        return EVENT.validate_python(plain)
    except ValidationError:
        kind = plain.get("type") if isinstance(plain, dict) else None
        return Notice(message=f"an event of type {kind} could not be read; its worker runs another version")
