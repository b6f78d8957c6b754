"""What the service remembers, as typed tables. Times are seconds since 1970 by the database's clock."""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from ulid import ULID

from service.database.clock import database_now

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

_COUNTER = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself only in a column declared INTEGER."""


def new_id(prefix: str) -> str:
    """A sortable id such as `job_01j…`."""
    return f"{prefix}_{str(ULID()).lower()}"


class Base(DeclarativeBase):
    """The tables' common ground."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map: ClassVar = {
        float: Double(),
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON(none_as_null=True),
    }


class Job(Base):
    """A recipe queued, or a search, which shares its life. `service.queue` is the sole writer of its status."""

    __tablename__ = "jobs"
    # For the dispatcher's looks at the queue, several a second.
    __table_args__ = (
        Index("ix_jobs_status_lease_expires_at", "status", "lease_expires_at"),
        Index("ix_jobs_created_at_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), default="job")
    """`job`, or `search`: then there is a row in `searches` too."""
    slots: Mapped[int] = mapped_column(default=1)
    """How many times the recipe's resources are wanted at once: of a search its concurrency."""
    status: Mapped[str] = mapped_column(String(16))
    stage: Mapped[str | None] = mapped_column(String(32))
    """The stage now running."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why the job waits, where there is more to say than the status."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_fault: Mapped[str | None] = mapped_column(String(16))
    """Whose fault it is, see `workers.errors.FaultClass`."""
    recipe: Mapped[dict[str, Any]]
    results: Mapped[dict[str, Any] | None]
    progress: Mapped[dict[str, Any] | None]
    """`{stage, subject, step, steps, metrics}` of the newest progress."""
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    labels: Mapped[dict[str, str]]
    priority: Mapped[int]
    created_at: Mapped[float] = mapped_column(default=database_now())
    updated_at: Mapped[float] = mapped_column(default=database_now())
    started_at: Mapped[float | None]
    """Start of the first attempt."""
    finished_at: Mapped[float | None]
    version: Mapped[int] = mapped_column(default=1)
    """Grows with every change."""
    last_event: Mapped[int] = mapped_column(default=0)
    """Number of the newest event."""
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts begun."""
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[float | None]
    not_before: Mapped[float] = mapped_column(default=0.0)
    """Earliest start of the next attempt. Does not change the place in the queue."""
    stage_deadline_seconds: Mapped[float | None]
    """Each stage of the attempt under way may take so long; none: as long as it likes."""
    stage_deadline_at: Mapped[float | None]
    """The attempt under way is stopped then, unless another stage has begun by that time."""
    artifacts_removed_at: Mapped[float | None]
    """When the retention policy took the files."""
    held_until: Mapped[float | None]
    """Somebody downloads the files; the retention policy leaves them until then."""


Index("ix_jobs_queue", Job.status, Job.priority.desc(), Job.created_at, Job.id)
"""The order in which jobs start: the first is found without sorting all that wait."""


class JobLabel(Base):
    """A job's label once more, in a form that every database can search."""

    __tablename__ = "job_labels"
    __table_args__ = (Index("ix_job_labels_key_value", "key", "value"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    value: Mapped[str] = mapped_column(String(255))


class Attempt(Base):
    """One leased try at a job."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job_id", "number"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    """From 1."""
    outcome: Mapped[str | None] = mapped_column(String(16))
    """`succeeded`, `failed`, `lost`, `paused` or `cancelled`; none while it runs."""
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_fault: Mapped[str | None] = mapped_column(String(16))
    started_at: Mapped[float] = mapped_column(default=database_now())
    ended_at: Mapped[float | None]
    last_sequence: Mapped[int] = mapped_column(default=0)
    """The worker's last event that is committed."""
    node: Mapped[str | None] = mapped_column(String(255))
    """Where it runs."""


class Event(Base):
    """A fact about a job, never edited."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "number"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_COUNTER, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    """From 1, without gaps within the job."""
    type: Mapped[str] = mapped_column(String(64))
    at: Mapped[float] = mapped_column(default=database_now())
    attempt_id: Mapped[str | None] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), index=True)
    body: Mapped[dict[str, Any]]


class Artifact(Base):
    """Stored bytes that belong to a job's result."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    """Such as `model/config.json`."""
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    attempt_id: Mapped[str] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[float] = mapped_column(default=database_now())


class Condemned(Base):
    """Bytes that nothing referred to. They are removed unless something does before their grace is over."""

    __tablename__ = "condemned"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    condemned_at: Mapped[float] = mapped_column(default=database_now())
    removed_at: Mapped[float | None]
    """Whoever refers to them from then on must see whether they were stored again."""


class Duty(Base):
    """Something that one process at a time does again and again."""

    __tablename__ = "duties"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class Dataset(Base):
    """A text that was uploaded. A deleted one keeps its row, for the jobs that refer to it."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_created_at_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    """Digest of the bytes, by which the artifact store finds them. Several data sets may share it."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(default=database_now())
    deleted_at: Mapped[float | None]
    bytes_removed_at: Mapped[float | None]
    """When the store let go of a deleted data set's bytes, or found that another has them too."""


class JobDataset(Base):
    """A job's use of a data set, which cannot be deleted before the job has ended."""

    __tablename__ = "job_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True, index=True)


class ApiKey(Base):
    """Who may call. The secret itself is nowhere kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    """Digest of the secret."""
    name: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[float] = mapped_column(default=database_now())
    revoked_at: Mapped[float | None]


class IdempotencyKey(Base):
    """An answer already given, for the caller who asks again."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(512), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(default=database_now(), index=True)


class Search(Base):
    """What is asked of a search, and what it has found. Its status, lease and events are those of a job's row."""

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    spec: Mapped[dict[str, Any]]
    """See `workers.contracts.search.Search`."""
    best: Mapped[int | None]
    """Number of the best trial so far."""
    frontier: Mapped[list[int]] = mapped_column(JSON)
    """Numbers of the trials that no other beats in every objective."""


class Trial(Base):
    """One recipe that a search tries."""

    __tablename__ = "trials"
    __table_args__ = (Index("ix_trials_search_id_ended_as", "search_id", "ended_as"),)

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """From 1, as proposed."""
    status: Mapped[str] = mapped_column(String(16))
    """`running`, `waiting` (while the search does not run), `succeeded`, `failed` or `stopped`."""
    point: Mapped[dict[str, Any]]
    """What it changes in the base recipe."""
    progress: Mapped[dict[str, Any] | None]
    """The newest `TrialProgressed`."""
    reports: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    """Every `TrialReported`, by rung."""
    finished: Mapped[dict[str, Any] | None]
    """Its `TrialFinished`."""
    ended_as: Mapped[int | None]
    """Its place among those that have ended, from 1: the order in which a sampler is told of them."""
    created_at: Mapped[float] = mapped_column(default=database_now())
    ended_at: Mapped[float | None]


class AcceptedRevision(Base):
    """A revision whose code may work on this schema, though it be a newer one. Migrations alone write here."""

    __tablename__ = "accepted_revisions"

    revision: Mapped[str] = mapped_column(String(32), primary_key=True)
