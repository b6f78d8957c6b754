"""What upkeep did, or would do, as the wire shows it: the retention policy and the garbage of the store."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from api.schemas import Answer

EXAMPLE_REMOVAL: dict[str, Any] = {
    "id": "job_01jdm9q4y8zk3v7n5r2t6w0xbc",
    "object": "job",
    "removes": "files",
    "files": 20,
    "size_bytes": 13480000000,
    "finished_at": "2026-10-20T21:00:00Z",
}


class RetentionPolicy(Answer):
    """How long what has ended is kept; `null`: for ever."""

    artifact_days: float | None
    """Files."""
    row_days: float | None
    """Jobs and searches themselves, with figures and events."""
    keep_last: int
    """The newest so many of each team (label `team`) are kept, whatever their age."""


class Removal(Answer):
    """What the policy removes of a job or a search."""

    id: str
    object: Literal["job", "search"]
    removes: Literal["files", "everything"]
    files: int
    size_bytes: int
    """Of the files; what others have too stays in the store."""
    finished_at: datetime


class RetentionReport(Answer):
    """What the retention policy removed, or would remove."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "retention_report",
                    "dry_run": True,
                    "policy": {"artifact_days": 30.0, "row_days": None, "keep_last": 5},
                    "data": [EXAMPLE_REMOVAL],
                    "size_bytes": 13480000000,
                }
            ]
        }
    )

    object: Literal["retention_report"] = "retention_report"
    dry_run: bool
    """Nothing was removed; this is what a run would remove now."""
    policy: RetentionPolicy
    data: list[Removal]
    """The longest ended first."""
    size_bytes: int


class UnneededFile(Answer):
    """Bytes that nothing refers to."""

    sha256: str
    size_bytes: int


class GarbageReport(Answer):
    """What a collection found in the artifact store, and removed or would remove."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "garbage_report",
                    "dry_run": False,
                    "removed": [{"sha256": "9f" * 32, "size_bytes": 13480000000}],
                    "removed_bytes": 13480000000,
                    "marked": [],
                    "marked_bytes": 0,
                    "waiting": 3,
                    "results_forgotten": 1,
                }
            ]
        }
    )

    object: Literal["garbage_report"] = "garbage_report"
    dry_run: bool
    """Nothing was marked or removed; this is what a run would do now."""
    removed: list[UnneededFile]
    """Nothing had referred to them for the whole grace."""
    removed_bytes: int
    marked: list[UnneededFile]
    """Nothing refers to them since now; they are removed after the grace unless something does by then."""
    marked_bytes: int
    waiting: int
    """Files marked before whose grace is not over."""
    results_forgotten: int
    """Stage results that went with their files."""
