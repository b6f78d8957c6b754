"""Why an attempt ends that cannot go on, though its worker lives."""

from collections.abc import Sequence

from service.dispatch.runner import News
from service.domain.lease import FILES_LOST, WORKER_LOST, Ending

_ANEW = "the stages that left them are computed again"
_EVENTS_MISSING = "its worker no longer has the events that come next; the job goes on from its last checkpoint"


def swept(lost: Sequence[str]) -> Ending:
    """The end of an attempt whose files were removed as garbage before it could say that it needs them."""
    named = ", ".join(sha256[:12] for sha256 in lost[:3])
    return Ending("transient", FILES_LOST, f"stored files were removed before they were committed ({named}); {_ANEW}")


def gap(news: News, committed: int) -> Ending | None:
    """The end of an attempt whose next events are gone for good; asking again would never bring them."""
    if not news.events or news.events[0].sequence <= committed + 1:
        return None
    return Ending("transient", WORKER_LOST, _EVENTS_MISSING)
