"""The deployment's settings: environment variables (`DRESS_*`) as one frozen value."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.database.address import address_of
from service.domain.lease import RetryRules
from workers.actor import ENGINE, PIPELINE
from workers.contracts.places import Places

Folders = Annotated[tuple[str, ...] | None, NoDecode]
"""Folders, written with colons between them."""


_MAY_BE_EMPTY = ("stage_deadline_hours", "retention_artifact_days", "retention_row_days", "upkeep_every_hours")


class Settings(BaseSettings):
    """All that a deployment may set. Each field is read from `DRESS_` + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="DRESS_", frozen=True, use_attribute_docstrings=True, extra="ignore", hide_input_in_errors=True
    )

    state_dir: Path
    """Folder of the local database, artifacts, key and Ray session."""
    database_url: str = ""
    """`postgresql://USER:PASSWORD@HOST/DATABASE`, or `sqlite:////FILE`. Left empty, a SQLite file in the state
    folder."""
    artifacts_url: str = ""
    """Where artifacts are kept: `file:///FOLDER`, or `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, with endpoint and
    credentials in the usual variables (`AWS_…`) of every process and node; left empty, a folder in the state folder."""
    signed_url_seconds: Annotated[float, Field(ge=0, le=604_800)] = 3600.0
    """How long a URL is good that downloads from an object store are sent to; 0 has them pass through the API, for
    callers that do not reach the object store."""
    ray_address: str | None = None
    """A Ray cluster to join; left empty, the dispatcher starts one on this machine."""
    model_roots: Folders = None
    """Folders that `model.source` may name a path under."""
    data_roots: Folders = None
    """Folders that a `text` corpus may be read from."""
    data_dir: Folders = None
    """Folders with local copies of named corpora, searched in order."""
    dataset_most_bytes: Annotated[int, Field(gt=0)] = 2**30
    """Largest text that may be uploaded as a data set, in bytes."""
    pipeline: str = PIPELINE
    """What an attempt runs, as `module:function`."""
    search_engine: str = ENGINE
    """What an attempt at a search runs, as `module:function`; each of its trials runs `pipeline`."""
    lease_seconds: Annotated[float, Field(gt=0)] = 15.0
    """Life of a lease without a heartbeat."""
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Time between two renewals of a lease."""
    poll_seconds: Annotated[float, Field(gt=0)] = 0.25
    """Time between two looks at the queue for new and cancelled jobs. Four times as long where the database tells of
    them (PostgreSQL): what time alone brings is left to look for."""
    reap_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Time between two searches for workers that nobody needs any more."""
    unpolled_seconds: Annotated[float, Field(gt=0)] = 120.0
    """An attempt that no dispatcher has asked for so long ends itself. Much longer than a lease: a dispatcher that
    comes back adopts the attempt."""
    max_attempts: Annotated[int, Field(ge=1)] = 5
    """Attempts without progress, for faults that pass (lost worker, network, disk). A stage finished or a checkpoint
    saved for the first time begins a new count."""
    retry_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Wait before the second attempt; doubled each time."""
    retry_longest_seconds: Annotated[float, Field(ge=0)] = 60.0
    """The longest wait between attempts."""
    stage_deadline_hours: Annotated[float, Field(gt=0)] | None = 72.0
    """A stage that has not ended so many hours after it began is stopped; left empty, none is. A recipe's
    `resources.stage_deadline_hours` goes first."""
    stage_deadline_retries: Annotated[int, Field(ge=0)] = 1
    """A job goes on so often from its last checkpoint after a stage of it was stopped for its deadline."""

    retention_artifact_days: Annotated[float, Field(ge=0)] | None = None
    """The files of jobs and searches are kept for so many days after their end; left empty, for ever."""
    retention_row_days: Annotated[float, Field(ge=0)] | None = None
    """Ended jobs and searches themselves, with figures and events, are kept for so many days; left empty, for ever. Not
    fewer than `retention_artifact_days`."""
    retention_keep_last: Annotated[int, Field(ge=0)] = 0
    """The newest so many of each team (label `team`) are kept, whatever their age."""
    stage_result_days: Annotated[float, Field(ge=0.1)] = 30.0
    """A stage's result whose files no job has is kept for so many days after it was last found."""
    garbage_grace_hours: Annotated[float, Field(ge=2)] = 24.0
    """Bytes that nothing refers to are removed so long after that was noticed, and never sooner after they were stored.
    Longer than a download may take, and than a signed URL lives; an object store relies on bytes for two hours."""
    upkeep_every_hours: Annotated[float, Field(gt=0)] | None = 6.0
    """A dispatcher applies the retention policy and removes garbage so often; left empty, only by command."""

    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of one GPU, in GiB. Set, a job that is predicted to need more is refused when it is submitted; left empty,
    a plan only tells what it would need, and the worker refuses it."""
    node_memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Main memory that one attempt may fill, in GiB; used as `gpu_memory_gib` is, for recipes without a GPU."""
    gpu_teraflops: Annotated[float, Field(gt=0)] = 100.0
    """Throughput of a GPU assumed in plans, in 10^12 operations a second, until stages have been measured there."""
    core_gigaflops: Annotated[float, Field(gt=0)] = 20.0
    """Throughput of a CPU core assumed in plans, in 10^9 operations a second, until stages have been measured."""
    disk_megabytes_per_second: Annotated[float, Field(gt=0)] = 500.0
    """Speed of reading and writing models assumed in plans, in 10^6 bytes a second, until stages have been measured."""
    plan_digest_gib: Annotated[float, Field(ge=0)] = 32.0
    """A plan reads a model of up to so many GiB to tell which stages are known; unchanged files are read once."""

    @field_validator("model_roots", "data_roots", "data_dir", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        if isinstance(given, str):
            return tuple(part for part in given.split(":") if part) or None
        return given

    @field_validator("ray_address", "gpu_memory_gib", "node_memory_gib", *_MAY_BE_EMPTY, mode="before")
    @classmethod
    def _empty_is_none(cls, given: Any) -> Any:
        return given or None

    @field_validator("database_url", mode="after")
    @classmethod
    def _known_database(cls, url: str) -> str:
        return address_of(url).render_as_string(hide_password=False) if url else url

    @model_validator(mode="after")
    def _files_go_first(self) -> Self:
        files, rows = self.retention_artifact_days, self.retention_row_days
        if rows is not None and (files is None or rows < files):
            raise ValueError(
                "retention_row_days: files go with their job; set retention_artifact_days too, to no more days than it"
            )
        if self.garbage_grace_hours * 3600.0 < self.signed_url_seconds:
            raise ValueError("garbage_grace_hours: set it to no less than the time that signed_url_seconds gives a URL")
        return self

    @field_validator("state_dir", mode="after")
    @classmethod
    def _absolute(cls, state_dir: Path) -> Path:
        return state_dir.expanduser().absolute()

    def model_post_init(self, _context: Any) -> None:
        """Fill in what depends on the state folder."""
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{self.state_dir / 'dress.sqlite3'}")
        if not self.artifacts_url:
            object.__setattr__(self, "artifacts_url", f"file://{self.state_dir / 'artifacts'}")

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings that the environment gives.

        Raises:
            pydantic.ValidationError: DRESS_STATE_DIR is missing, or a value is no such thing.
        """
        return cls()

    @property
    def api_key_file(self) -> Path:
        """The file that holds this machine's own key."""
        return self.state_dir / "api-key"

    @property
    def retry_rules(self) -> RetryRules:
        """How failed attempts are followed by others."""
        return RetryRules(
            self.max_attempts, self.retry_seconds, self.retry_longest_seconds, self.stage_deadline_retries + 1
        )

    def places(self) -> Places:
        """Where recipes may point. On a single machine, roots left unset are the current folder and the state folder;
        with a Ray cluster they are none, since no folder of this machine is known to be the workers' too."""
        own = [str(Path.cwd()), str(self.state_dir)] if self.ray_address is None else []
        return Places(
            model_roots=own if self.model_roots is None else list(self.model_roots),
            data_roots=own if self.data_roots is None else list(self.data_roots),
            data_dirs=list(self.data_dir or ()),
        )
