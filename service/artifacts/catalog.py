"""Who made which bytes: the files that belong to each job's result."""

from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.database.clock import database_now
from service.database.tables import Artifact, Job
from service.errors import NotFound
from workers.contracts.results import StoredFile


def manifest(session: Session, job_id: str) -> list[Artifact]:
    """The job's files, by path."""
    return list(session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.path)))


def find(session: Session, job_id: str, path: str) -> Artifact:
    """One file of a job.

    Raises:
        NotFound: the job has no such file.
    """
    artifact = session.get(Artifact, (job_id, path))
    if artifact is None:
        removed_at = session.scalar(select(Job.artifacts_removed_at).where(Job.id == job_id))
        if removed_at is not None:
            day = datetime.fromtimestamp(removed_at, UTC).date()
            raise NotFound(
                f"the files of {job_id} were removed on {day} by the retention policy; submit its recipe again to have "
                "them made, and pin what is to stay with the label keep=true"
            )
        raise NotFound(f"job {job_id} has no artifact {path}; its manifest lists what there is")
    return artifact


def record(session: Session, job_id: str, stored: StoredFile, attempt_id: str) -> Artifact:
    """Enter a stored file; a later attempt's file takes the place of an earlier one's at the same path."""
    artifact = session.get(Artifact, (job_id, stored.path))
    if artifact is None:
        artifact = Artifact(job_id=job_id, path=stored.path)
        session.add(artifact)
    artifact.sha256, artifact.size_bytes, artifact.attempt_id = stored.sha256, stored.size_bytes, attempt_id
    artifact.created_at = database_now()
    session.flush()
    session.refresh(artifact)
    return artifact


def forget(session: Session, job_id: str, folder: str) -> None:
    """Take the files under a path such as `trial-7/` out of the manifest; the store keeps their bytes."""
    below = Artifact.path.startswith(folder, autoescape=True)
    session.execute(delete(Artifact).where(Artifact.job_id == job_id, below))
