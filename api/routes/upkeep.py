"""Upkeep over HTTP: apply the retention policy, collect garbage; either may be rehearsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict

from api.dependencies import Wired, caller
from api.openapi import problems
from api.schemas import instant
from api.upkeep import GarbageReport, Removal, RetentionPolicy, RetentionReport, UnneededFile
from service import collection, retention, upkeep
from service.artifacts.stores import answering
from workers.contracts.store import KeptBytes

router = APIRouter(prefix="/v1", tags=["upkeep"], dependencies=[Depends(caller)])


class _Asked(BaseModel):
    """Unknown parameters are refused: a rehearsal that was misspelt must not be taken for the real thing."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    dry_run: bool = False
    """Tell what would be done, and do nothing."""


Asked = Annotated[_Asked, Query()]


@router.post("/retention:run", operation_id="run_retention", responses=problems(401, 409, 422, 503))
def run_retention(wiring: Wired, asked: Asked) -> RetentionReport:
    """Remove files, and in the end jobs and searches themselves, that the deployment's policy no longer keeps.

    What has not ended, is pinned by the label `keep=true`, is being downloaded, or is referred to by what goes on, is
    left alone. A dry run tells exactly what a run would remove now. The bytes go with the next collection of garbage.
    """
    policy = upkeep.policy(wiring.settings)
    if asked.dry_run:
        with wiring.database.reading() as session:
            removed = retention.due(session, policy)
    else:
        with upkeep.alone(wiring.database, notes_end=False) as may_go_on:
            removed = retention.apply(wiring.database, policy, may_go_on)
    return RetentionReport(
        dry_run=asked.dry_run,
        policy=RetentionPolicy(
            artifact_days=policy.artifact_days, row_days=policy.row_days, keep_last=policy.keep_last
        ),
        data=[_removal(each) for each in removed],
        size_bytes=sum(each.size_bytes for each in removed),
    )


@router.post("/garbage:collect", operation_id="collect_garbage", responses=problems(401, 409, 422, 503))
def collect_garbage(wiring: Wired, asked: Asked) -> GarbageReport:
    """Mark the files of the artifact store that nothing refers to, and remove those that were marked a grace ago.

    A dispatcher does so by itself from time to time; only one at a time may.
    """
    terms = upkeep.terms(wiring.settings)
    with answering():
        if asked.dry_run:
            return _report(collection.collect(wiring.database, wiring.store, terms, dry_run=True), dry_run=True)
        with upkeep.alone(wiring.database, notes_end=False) as may_go_on:
            told = collection.collect(wiring.database, wiring.store, terms, may_go_on=may_go_on)
            wiring.store.sweep()
            return _report(told, dry_run=False)


def _removal(each: retention.Due) -> Removal:
    return Removal.model_validate(
        {
            "id": each.id,
            "object": each.kind,
            "removes": each.removes,
            "files": each.files,
            "size_bytes": each.size_bytes,
            "finished_at": instant(each.finished_at),
        }
    )


def _report(told: collection.Collected, *, dry_run: bool) -> GarbageReport:
    return GarbageReport(
        dry_run=dry_run,
        removed=_files(told.removed),
        removed_bytes=sum(kept.size_bytes for kept in told.removed),
        marked=_files(told.condemned),
        marked_bytes=sum(kept.size_bytes for kept in told.condemned),
        waiting=told.waiting,
        results_forgotten=len(told.dropped_results),
    )


def _files(kept: Sequence[KeptBytes]) -> list[UnneededFile]:
    return [UnneededFile(sha256=each.sha256, size_bytes=each.size_bytes) for each in kept]
