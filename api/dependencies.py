"""The only wiring: what the routes get handed, and who may call them.

Routes open their transactions themselves. A session handed in by a dependency would be opened and closed in other
threads of the pool than the route's; under a burst of writes all threads could then wait for SQLite's one write lock
while its holder waits for a thread.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI, Query, Request, Security
from fastapi import Path as PathParameter
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.tail import Tail
from service import keys, upkeep
from service.database.schema import require_known
from service.database.session import Database
from service.errors import NotFound, Unauthenticated
from service.settings import Settings
from workers.contracts.results import StageResult
from workers.contracts.store import Elsewhere, KeepsUploads, OnDisk, Streamed
from workers.errors import FaultClass

_JOB_ID = re.compile(r"job_[0-9a-zA-Z]{1,36}")
_SEARCH_ID = re.compile(r"search_[0-9a-zA-Z]{1,33}")
_DATASET_ID = re.compile(r"dataset_[0-9a-zA-Z]{1,32}")

_bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="As in STATE/api-key.")


class Files(KeepsUploads, upkeep.Store, Protocol):
    """What the API needs of an artifact store."""

    def find(self, key: str) -> StageResult | None:
        """The result of the stage with this key."""
        ...

    def where(self, sha256: str, url_seconds: float) -> OnDisk | Elsewhere | Streamed | None:
        """How the bytes with this digest can be read; see `ArtifactStore.where`."""
        ...


@dataclass(frozen=True)
class Wiring:
    """What one running app is made of."""

    settings: Settings
    database: Database
    store: Files
    tail: Tail
    has_key: threading.Event = field(default_factory=threading.Event)
    """Set once this machine's own key is known to be in the database."""


def ready(wiring: Wiring) -> None:
    """Make sure that requests can be served: the database is there, at this version's schema, and knows the local key.

    Raises:
        SchemaOutdated: it must be migrated first.
        OperationalError: it does not answer.
    """
    require_known(wiring.database)
    if not wiring.has_key.is_set():
        with wiring.database.writing() as session:
            keys.ensure_local_key(session, wiring.settings.api_key_file)
        wiring.has_key.set()


def connect(app: FastAPI, wiring: Wiring) -> None:
    """Hand the app its parts."""
    app.state.wiring = wiring


def wiring_of(request: Request) -> Wiring:
    """The parts of the app that serves this request."""
    wiring = request.app.state.wiring
    assert isinstance(wiring, Wiring)  # noqa: S101  set by `connect` before the first request
    return wiring


Wired = Annotated[Wiring, Depends(wiring_of)]


def caller(wiring: Wired, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None) -> str:
    """The id of the API key that the request shows.

    Raises:
        Unauthenticated: there is none, or it is unknown or revoked.
    """
    if credentials is None:
        raise Unauthenticated("Send your API key as `Authorization: Bearer KEY`.")
    with wiring.database.reading() as session:
        key = keys.authenticate(session, credentials.credentials)
        if key is None:
            raise Unauthenticated("This API key is not known here or was revoked.")
        return key.id


Caller = Annotated[str, Depends(caller)]

FaultQuery = Annotated[FaultClass | None, Query(description="Only what failed by a fault of this class.")]
CodeQuery = Annotated[str | None, Query(max_length=64, description="Only what failed with this error.")]


def job_id(job_id: Annotated[str, PathParameter(description="The job's id.")]) -> str:
    """The job id of the path.

    Raises:
        NotFound: it has not even the form of one.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise NotFound(f"There is no job {job_id[:64]!r}.")
    return job_id


JobId = Annotated[str, Depends(job_id)]


def search_id(search_id: Annotated[str, PathParameter(description="The search's id.")]) -> str:
    """The search's id of the path.

    Raises:
        NotFound: it has not even the form of one.
    """
    if not _SEARCH_ID.fullmatch(search_id):
        raise NotFound(f"There is no search {search_id[:64]!r}.")
    return search_id


SearchId = Annotated[str, Depends(search_id)]


def dataset_id(dataset_id: Annotated[str, PathParameter(description="The data set's id.")]) -> str:
    """The data set's id of the path.

    Raises:
        NotFound: it has not even the form of one.
    """
    if not _DATASET_ID.fullmatch(dataset_id):
        raise NotFound(f"There is no data set {dataset_id[:64]!r}.")
    return dataset_id


DatasetId = Annotated[str, Depends(dataset_id)]
