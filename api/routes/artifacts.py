"""What a job or a search left, over HTTP: the manifest, and the files with ranges and digests, wherever they lie."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from starlette.responses import FileResponse

from api.conditional import already_has
from api.dependencies import JobId, SearchId, Wired, Wiring, caller
from api.errors import problem
from api.openapi import problems
from api.owners import JOB, SEARCH, Owner
from api.schemas import Artifact, ArtifactList, instant
from api.stored_bytes import Described, FromDisk, from_elsewhere, through_here
from service import retention, upkeep
from service.artifacts import catalog
from service.artifacts.stores import answering
from service.database import tables
from service.errors import NotFound
from workers.contracts.store import Elsewhere, OnDisk, Streamed

router = APIRouter(tags=["artifacts"], dependencies=[Depends(caller)])

_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_TEXT = {"schema": {"type": "string"}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        **_BYTES,
        "headers": {
            "ETag": {"description": "The file's SHA-256.", **_TEXT},
            "Repr-Digest": {"description": "The whole file's digest (RFC 9530).", **_TEXT},
            "Accept-Ranges": {"description": "`bytes`.", **_TEXT},
        },
    },
    206: {"description": "The ranges asked for.", **_BYTES},
    304: {"description": "You have the file already."},
    307: {
        "description": "The file is in an object store: read it at this URL, without Authorization. It is good for a "
        "while and takes ranges.",
        "headers": {"Location": {"description": "A signed URL.", **_TEXT}},
    },
}


_MANIFEST = problems(401, 404, 503)
_DOWNLOAD = problems(401, 404, 416, 503) | _FILE


@dataclass(frozen=True)
class File:
    """Which file a request asks for, and what of it."""

    request: Request
    path: Annotated[str, Path(description="As the manifest names it, such as `model/config.json`.")]
    if_none_match: Annotated[str | None, Header(description="ETag that you have.")] = None
    range: Annotated[str | None, Header(description="Such as `bytes=1000-`.")] = None
    if_range: Annotated[str | None, Header(description="Ranges only of this ETag.")] = None


Asked = Annotated[File, Depends()]


@router.get(JOB.root + "/{job_id}/artifacts", operation_id="list_artifacts", responses=_MANIFEST)
def of_job(wiring: Wired, job_id: JobId) -> ArtifactList:
    """Every file that the job left, with size and digest."""
    return _manifest(wiring, JOB, job_id)


@router.get(SEARCH.root + "/{search_id}/artifacts", operation_id="list_search_artifacts", responses=_MANIFEST)
def of_search(wiring: Wired, search_id: SearchId) -> ArtifactList:
    """Every file that the search left, with size and digest: of the trials that its `keep` names."""
    return _manifest(wiring, SEARCH, search_id)


def _manifest(wiring: Wiring, owner: Owner, owner_id: str) -> ArtifactList:
    with wiring.database.reading() as session:
        owner.find(session, owner_id)
    # Before the list is read: whoever asks for it is about to ask for the files.
    retention.hold(wiring.database, upkeep.policy(wiring.settings), owner_id)
    with wiring.database.reading() as session:
        owner.find(session, owner_id)
        rows = catalog.manifest(session, owner_id)
        return ArtifactList(data=[_answer(row, owner) for row in rows], has_more=False)


@router.head(JOB.root + "/{job_id}/artifacts/{path:path}", include_in_schema=False)
@router.get(
    JOB.root + "/{job_id}/artifacts/{path:path}",
    operation_id="download_artifact",
    response_class=FileResponse,
    responses=_DOWNLOAD,
)
def download_of_job(wiring: Wired, job_id: JobId, asked: Asked) -> Response:
    """One file. Interrupted downloads resume with `Range` and `If-Range`."""
    return _download(wiring, JOB, job_id, asked)


@router.head(SEARCH.root + "/{search_id}/artifacts/{path:path}", include_in_schema=False)
@router.get(
    SEARCH.root + "/{search_id}/artifacts/{path:path}",
    operation_id="download_search_artifact",
    response_class=FileResponse,
    responses=_DOWNLOAD,
)
def download_of_search(wiring: Wired, search_id: SearchId, asked: Asked) -> Response:
    """One file that a search left. Interrupted downloads resume with `Range` and `If-Range`."""
    return _download(wiring, SEARCH, search_id, asked)


def _download(wiring: Wiring, owner: Owner, owner_id: str, asked: File) -> Response:
    with wiring.database.reading() as session:
        owner.find(session, owner_id)
        if not _is_plain(asked.path):
            raise NotFound(f"The {owner.word} has no file of this name; see {owner.root}/{owner_id}/artifacts.")
        row = catalog.find(session, owner_id, asked.path)
        sha256 = row.sha256
        described = Described(row.path.rsplit("/", 1)[-1], sha256, row.size_bytes)
    if already_has(asked.if_none_match, described.etag):
        return Response(status_code=304, headers={"ETag": described.etag})
    retention.hold(wiring.database, upkeep.policy(wiring.settings), owner_id)
    scope = asked.request.scope
    with answering():
        place = wiring.store.where(sha256, wiring.settings.signed_url_seconds)
    match place:
        case Elsewhere(url):
            return from_elsewhere(scope, described, url)
        case Streamed():
            return through_here(scope, described, place)
        case OnDisk(file):
            with suppress(FileNotFoundError):  # removed this very moment
                return FromDisk(described, file, file.stat())
    detail = f"The bytes of {asked.path} ({sha256}) are missing from the artifact store; tell its operator."
    return problem(scope, HTTPStatus.INTERNAL_SERVER_ERROR, detail, code="artifact_missing")


def _is_plain(path: str) -> bool:
    return path.isprintable() and len(path) <= 512


def _answer(row: tables.Artifact, owner: Owner) -> Artifact:
    return Artifact(
        path=row.path,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        href=f"{owner.root}/{row.job_id}/artifacts/{quote(row.path)}",
        created_at=instant(row.created_at),
    )
