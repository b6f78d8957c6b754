"""Bytes that nothing refers to: marked, and after a grace removed, so that no job is ever left with a missing file.

What refers to bytes: the files of jobs and searches, the trials of a search that has not ended, and stage results that
are still of use. See DECISIONS for why no interleaving of finding, storing, committing and sweeping loses any.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from service.database import locks
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Artifact, Attempt, Condemned, Event, Job, Trial
from service.domain.job import FINAL
from service.transitions import words
from workers.contracts.events import ArtifactStored, NumberedEvent
from workers.contracts.store import KeptBytes, KeptResult
from workers.contracts.trials import TrialFinished

_STORE_SECONDS = 300
"""A store far away may take so long to answer, with all its tries."""
_AT_ONCE = 500
"""Digests in one statement."""


class Sweepable(Protocol):
    """What is asked of an artifact store; see `workers.contracts.store.ArtifactStore`."""

    def holds(self, sha256: str) -> bool:
        """Whether there are bytes with this digest."""
        ...

    def digests(self, older_than_seconds: float) -> Iterator[KeptBytes]:
        """The bytes that were last put so long ago or earlier."""
        ...

    def delete(self, sha256: str, older_than_seconds: float) -> bool:
        """Remove bytes unless they were put again within this time."""
        ...

    def results(self) -> Iterator[KeptResult]:
        """Every stage result that names files."""
        ...

    def drop_result(self, key: str, idle_seconds: float) -> bool:
        """Forget a result unless it was found or published within this time."""
        ...


@dataclass(frozen=True)
class Terms:
    """How long what nothing refers to is kept."""

    grace_seconds: float
    """Bytes stay so long after they were stored, and after it was noticed that nothing refers to them."""
    result_seconds: float
    """A stage's result refers to its files for so long after it was last found."""


@dataclass
class Collected:
    """What a collection found and did."""

    condemned: list[KeptBytes] = field(default_factory=list)
    """Noticed now; nothing is removed of them yet."""
    removed: list[KeptBytes] = field(default_factory=list)
    waiting: int = 0
    """Noticed before, and still within their grace."""
    dropped_results: list[str] = field(default_factory=list)
    """Keys of the stage results that went with their files."""


def collect(
    database: Database,
    store: Sweepable,
    terms: Terms,
    *,
    dry_run: bool = False,
    may_go_on: Callable[[], bool] | None = None,
) -> Collected:
    """Mark what nothing refers to, and remove what was marked a grace ago and still has no reference.

    Args:
        dry_run: only tell what would be done.
        may_go_on: asked before each removal.

    Raises:
        workers.errors.Transient: the store does not answer; whatever was done is whole.
    """
    told = Collected()
    results = list(store.results())
    with database.reading() as session:
        needed = _referred_to(session) | _still_of_use(session, results, terms)
    # Younger bytes may be on their way into a job: not even marked.
    garbage = {kept.sha256: kept for kept in store.digests(terms.grace_seconds) if kept.sha256 not in needed}
    with database.reading() as session:
        marked = {
            row.sha256: row.condemned_at
            for row in session.scalars(select(Condemned).where(Condemned.removed_at.is_(None)))
        }
        latest = session.scalar(select(database_now() - terms.grace_seconds))
    told.condemned = [kept for sha256, kept in garbage.items() if sha256 not in marked]
    due = [kept for sha256, kept in garbage.items() if sha256 in marked and marked[sha256] <= (latest or 0.0)]
    told.waiting = len(garbage) - len(told.condemned) - len(due)
    if not dry_run:
        _mark(database, [kept.sha256 for kept in told.condemned])
        _settle_others(database, store, [sha256 for sha256 in marked if sha256 not in garbage])
    naming = _naming(results)
    for kept in due:
        if may_go_on is not None and not may_go_on():
            break
        keys = naming.get(kept.sha256, [])
        if dry_run or _remove(database, store, terms, kept, keys):
            told.removed.append(kept)
            told.dropped_results += [key for key in keys if key not in told.dropped_results]
    if not dry_run:
        _forget_removals(database, terms)
    return told


def lost(session: Session, store: Sweepable, reported: Iterable[NumberedEvent]) -> list[str]:
    """Of the files that an attempt is about to commit, the digests that were swept away since it found them.

    Those that are marked and still there are pardoned, in this transaction.
    """
    named = sorted({sha256 for numbered in reported for sha256 in _digests(numbered)})
    gone = []
    for part in _parts(named):
        # Locked where writers do not wait for each other anyway: `_remove` comes before or after, never between.
        wanted = select(Condemned.sha256).where(Condemned.sha256.in_(part)).order_by(Condemned.sha256)
        locks.allow_silence(session, _STORE_SECONDS)
        for sha256 in session.scalars(wanted.with_for_update()).all():
            if store.holds(sha256):
                session.execute(delete(Condemned).where(Condemned.sha256 == sha256))
            else:
                gone.append(sha256)
    return gone


def _digests(numbered: NumberedEvent) -> Iterator[str]:
    if isinstance(numbered.event, ArtifactStored | TrialFinished):
        yield from (file.sha256 for file in numbered.event.files)


def _referred_to(session: Session) -> set[str]:
    """Digests of the files of jobs and searches, and of the trials of searches that have not ended."""
    of_trials = (
        select(Trial.finished["files"])
        .join(Job, Job.id == Trial.search_id)
        .where(Trial.finished.is_not(None), Job.status.notin_(words(FINAL)))
    )
    named = {file["sha256"] for listed in session.scalars(of_trials) for file in listed or ()}
    return set(session.scalars(select(Artifact.sha256).distinct())) | named


def _still_of_use(session: Session, results: Iterable[KeptResult], terms: Terms) -> set[str]:
    """Digests that results name which were found lately, or which a job that has not ended has come by."""
    come_by = (
        select(Event.body["key"].as_string())
        .join(Job, Job.id == Event.job_id)
        .where(Event.type == "stage_started", Job.status.notin_(words(FINAL)))
    )
    keys = set(session.scalars(come_by.distinct()))
    return {
        sha256
        for result in results
        if result.idle_seconds < terms.result_seconds or result.key in keys
        for sha256 in result.digests
    }


def _naming(results: Iterable[KeptResult]) -> dict[str, list[str]]:
    """Keys of the results that name a digest."""
    naming: dict[str, list[str]] = {}
    for result in results:
        for sha256 in result.digests:
            naming.setdefault(sha256, []).append(result.key)
    return naming


def _mark(database: Database, digests: list[str]) -> None:
    """Note what nothing refers to."""
    for part in _parts(digests):
        with database.writing() as session:
            # What was removed once and stored again since is condemned anew.
            session.execute(delete(Condemned).where(Condemned.sha256.in_(part)))
            session.add_all(Condemned(sha256=sha256) for sha256 in part)


def _settle_others(database: Database, store: Sweepable, marked: list[str]) -> None:
    """Pardon what is referred to or was stored again; note as removed what a crash kept from being noted."""
    for sha256 in marked:
        is_there = store.holds(sha256)  # whoever commits it looks again
        with database.writing() as session:
            mark = (Condemned.sha256 == sha256, Condemned.removed_at.is_(None))
            if is_there:
                session.execute(delete(Condemned).where(*mark))
            else:
                session.execute(update(Condemned).where(*mark).values(removed_at=database_now()))


def _remove(database: Database, store: Sweepable, terms: Terms, kept: KeptBytes, keys: Iterable[str]) -> bool:
    """Remove bytes and the results that name them, unless something refers to them again; whether they are gone."""
    if not all([store.drop_result(key, terms.result_seconds) for key in keys]):
        return False  # found again just now
    with database.writing() as session:
        locks.allow_silence(session, _STORE_SECONDS)
        marked = (Condemned.sha256 == kept.sha256, Condemned.removed_at.is_(None))
        old = Condemned.condemned_at <= database_now() - terms.grace_seconds
        # Its row is locked until the end: whoever commits a file of this digest comes before or after.
        gone = update(Condemned).where(*marked, old).values(removed_at=database_now()).returning(Condemned.sha256)
        if session.scalar(gone) is None:
            return False
        # A trial's commit takes the mark away, as a job's does; this is for files that came some other way.
        has_owner = session.scalar(select(Artifact.job_id).where(Artifact.sha256 == kept.sha256).limit(1)) is not None
        if not has_owner and store.delete(kept.sha256, terms.grace_seconds):
            return True
        session.execute(delete(Condemned).where(Condemned.sha256 == kept.sha256))
        return False


def _forget_removals(database: Database, terms: Terms) -> None:
    """Forget what was removed once no attempt runs that may have found it before."""
    with database.writing() as session:
        oldest = select(func.min(Attempt.started_at)).where(Attempt.outcome.is_(None)).scalar_subquery()
        before = func.coalesce(oldest, database_now())
        past = (Condemned.removed_at < before, Condemned.removed_at < database_now() - terms.grace_seconds)
        session.execute(delete(Condemned).where(*past))


def _parts(digests: list[str]) -> Iterator[list[str]]:
    return (digests[start : start + _AT_ONCE] for start in range(0, len(digests), _AT_ONCE))
