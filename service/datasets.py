"""Data sets of a team's own: texts that were uploaded, kept by digest, and the jobs that refer to them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from sqlalchemy import ColumnElement, select, tuple_, update
from sqlalchemy.orm import Session

from service.database import locks
from service.database.clock import database_now
from service.database.session import Database
from service.database.tables import Dataset, Job, JobDataset, new_id
from service.domain.job import FINAL, RETRIABLE, Status
from service.errors import Conflict, InvalidRecipe, NotFound
from service.incoming import CheckedText
from workers.contracts.recipe import NamedText, Recipe
from workers.contracts.store import Uploads
from workers.errors import Transient

log = logging.getLogger(__name__)

_FINAL = sorted(status.value for status in FINAL)
_STORE_SECONDS = 600
"""So long the store may take to put bytes in place or to remove them."""
_STRAY_SECONDS = 3600.0
"""Bytes so old that belong to no data set are no upload's under way: its row follows within seconds."""
_JOBS_NAMED = 3
"""Jobs that a refusal to delete names."""


def keep(session: Session, text: CheckedText, name: str) -> tuple[Dataset, bool]:
    """Keep a text under a name, and whether it is new: the same bytes under the same name are the data set they were.

    Raises:
        workers.errors.StorageFull, workers.errors.Transient: the bytes could not be put in place.
    """
    _lock(session, text.sha256)
    # Within the transaction: `sweep`, which removes bytes that nobody claims, comes before or after, never between.
    text.draft.keep()
    same = (Dataset.sha256 == text.sha256, Dataset.name == name, Dataset.deleted_at.is_(None))
    first = select(Dataset).where(*same).order_by(Dataset.created_at, Dataset.id).limit(1)
    known = session.scalars(first.with_for_update()).first()  # or it might be deleted before this is committed
    if known is not None:
        return known, False
    made = Dataset(id=new_id("dataset"), name=name, sha256=text.sha256, size_bytes=text.size_bytes)
    session.add(made)
    session.flush()
    session.refresh(made)
    return made, True


def get(session: Session, dataset_id: str) -> Dataset:
    """One data set.

    Raises:
        NotFound: there is none of this id, or it was deleted.
    """
    found = session.get(Dataset, dataset_id)
    if found is None:
        raise NotFound(f"there is no data set {dataset_id}")
    if found.deleted_at is not None:
        raise NotFound(f"the data set {dataset_id} ({found.name}) was deleted")
    return found


def listing(
    session: Session,
    *,
    limit: int,
    after: str | None = None,
    name: str | None = None,
    sha256: str | None = None,
    created_after: float | None = None,
) -> tuple[list[Dataset], bool]:
    """Data sets, newest first, and whether there are more.

    Raises:
        NotFound: `after` names no data set; one that was deleted meanwhile will do.
    """
    conditions: list[ColumnElement[bool]] = [Dataset.deleted_at.is_(None)]
    if after is not None:
        last = session.get(Dataset, after)
        if last is None:
            raise NotFound(f"there is no data set {after}")
        conditions.append(tuple_(Dataset.created_at, Dataset.id) < tuple_(last.created_at, last.id))
    if name is not None:
        conditions.append(Dataset.name == name)
    if sha256 is not None:
        conditions.append(Dataset.sha256 == sha256)
    if created_after is not None:
        conditions.append(Dataset.created_at > created_after)
    order = (Dataset.created_at.desc(), Dataset.id.desc())
    found = list(session.scalars(select(Dataset).where(*conditions).order_by(*order).limit(limit + 1)))
    return found[:limit], len(found) > limit


def delete(session: Session, dataset_id: str) -> None:
    """Delete a data set. What finished jobs say of it stays; its bytes go with the next `sweep`.

    Raises:
        NotFound: there is none of this id.
        Conflict: a job that has not ended refers to it.
    """
    found = session.get(Dataset, dataset_id, populate_existing=True, with_for_update=True)
    if found is None or found.deleted_at is not None:
        get(session, dataset_id)  # says which
    referring = (
        select(Job.id)
        .join(JobDataset, JobDataset.job_id == Job.id)
        .where(JobDataset.dataset_id == dataset_id, Job.status.notin_(_FINAL))
        .order_by(Job.created_at, Job.id)
        .limit(_JOBS_NAMED + 1)
    )
    jobs = list(session.scalars(referring))
    if jobs:
        named = ", ".join(jobs[:_JOBS_NAMED]) + (" and others" if len(jobs) > _JOBS_NAMED else "")
        raise Conflict(f"{dataset_id} is in use by {named}; wait for their end, or cancel them")
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(deleted_at=database_now()))


def sweep(database: Database, uploads: Uploads) -> None:
    """Remove the bytes of deleted data sets that no other data set has, and those that a crash left without a row.

    What fails is tried again the next time.
    """
    try:
        there = set(uploads.digests(_STRAY_SECONDS))
        with database.reading() as session:
            pending = (Dataset.deleted_at.is_not(None), Dataset.bytes_removed_at.is_(None))
            digests = set(session.scalars(select(Dataset.sha256).where(*pending)))
            strays = there - set(session.scalars(select(Dataset.sha256)))
        for sha256 in sorted(digests | strays):
            with database.writing() as session:
                _sweep_one(session, uploads, sha256)
    except Transient as error:
        log.warning("bytes that no data set needs are still there: %s", error)


def resolved(session: Session, uploads: Uploads, recipe: Recipe) -> Recipe:
    """The recipe, each data set that it names told by digest too: so it is complete by itself.

    Raises:
        InvalidRecipe: a data set is unknown, deleted or of another digest, or its bytes are lost; names the field.
    """
    found = {field: _resolved(session, uploads, text, field) for field, text in _texts(recipe)}
    texts = [
        text.model_copy(update=found.get(_text_field(place), {}))
        for place, text in enumerate(recipe.evaluate.perplexity)
    ]
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=found.get("data", {})),
            "evaluate": recipe.evaluate.model_copy(update={"perplexity": texts}),
        }
    )


def refer(session: Session, job_id: str, recipe: Recipe) -> None:
    """Note that a job needs the data sets of its resolved recipe: none of them goes before the job has ended.

    Raises:
        InvalidRecipe: one was deleted since the recipe was resolved.
    """
    texts = reversed(list(_texts(recipe)))
    refer_to(session, job_id, {text.dataset: f"{field}.dataset" for field, text in texts if text.dataset})


def refer_to(session: Session, job_id: str, named: Mapping[str, str]) -> dict[str, str]:
    """Note that a job needs data sets, each with the field that names it; the digests, by id.

    Raises:
        InvalidRecipe: there is no such data set, or it was deleted.
    """
    digests = {}
    for dataset_id, field in sorted(named.items()):
        # Shared: those who refer to it need not wait for each other, only for whoever deletes it.
        found = session.get(Dataset, dataset_id, populate_existing=True, with_for_update={"read": True})
        if found is None or found.deleted_at is not None:
            raise _unknown(dataset_id, field)
        session.add(JobDataset(job_id=job_id, dataset_id=dataset_id))
        digests[dataset_id] = found.sha256
    session.flush()
    return digests


def require_kept(session: Session, job: Job) -> None:
    """See that the data sets of a job that may be tried again are still there, and stay until this transaction ends.

    Raises:
        Conflict: one was deleted.
    """
    if Status(job.status) not in RETRIABLE:
        return  # of one that has not ended, none can be deleted
    named = select(JobDataset.dataset_id).where(JobDataset.job_id == job.id).order_by(JobDataset.dataset_id)
    for dataset_id in session.scalars(named).all():
        found = session.get(Dataset, dataset_id, populate_existing=True, with_for_update={"read": True})
        if found is None or found.deleted_at is not None:
            remedy = "upload its text again, and submit the recipe with the new id"
            raise Conflict(f"the data set {dataset_id} of {job.id} was deleted; {remedy}")


def _resolved(session: Session, uploads: Uploads, text: NamedText, field: str) -> dict[str, str]:
    assert text.dataset is not None  # noqa: S101  _texts yields no other
    found = session.get(Dataset, text.dataset)
    if found is None or found.deleted_at is not None:
        raise _unknown(text.dataset, f"{field}.dataset")
    if text.dataset_sha256 not in (None, found.sha256):
        raise InvalidRecipe(f"{field}.dataset_sha256", f"{text.dataset} has the digest {found.sha256}; leave this out")
    if not uploads.holds(found.sha256):
        raise InvalidRecipe(
            f"{field}.dataset",
            f"the bytes of {text.dataset} are missing from the artifact store; upload the file again",
        )
    return {"dataset_sha256": found.sha256}


def _unknown(dataset_id: str, field: str) -> InvalidRecipe:
    remedy = "upload it with `POST /v1/datasets`, or choose one that `GET /v1/datasets` lists"
    return InvalidRecipe(field, f"there is no data set {dataset_id}; {remedy}")


def _texts(recipe: Recipe) -> Iterator[tuple[str, NamedText]]:
    """The texts that are data sets, by the recipe's section that names them."""
    sections: list[tuple[str, NamedText]] = [("data", recipe.data)]
    sections += [(_text_field(place), text) for place, text in enumerate(recipe.evaluate.perplexity)]
    return ((field, text) for field, text in sections if text.dataset is not None)


def _text_field(place: int) -> str:
    return f"evaluate.perplexity.{place}"


def _sweep_one(session: Session, uploads: Uploads, sha256: str) -> None:
    _lock(session, sha256)
    alive = (Dataset.sha256 == sha256, Dataset.deleted_at.is_(None))
    if session.scalars(select(Dataset.id).where(*alive).limit(1)).first() is None:
        uploads.discard(sha256)
    gone = (Dataset.sha256 == sha256, Dataset.deleted_at.is_not(None), Dataset.bytes_removed_at.is_(None))
    session.execute(update(Dataset).where(*gone).values(bytes_removed_at=database_now()))


def _lock(session: Session, sha256: str) -> None:
    """Wait for all who keep or remove these bytes; there may be no row of them yet."""
    locks.hold(session, f"bytes:{sha256}")
    locks.allow_silence(session, _STORE_SECONDS)
