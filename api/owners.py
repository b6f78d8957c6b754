"""Whose events, attempts and artifacts they are: a job's or a search's, which share a life in the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service import jobs, searches
from service.database import tables


@dataclass(frozen=True)
class Owner:
    """A kind of thing that is queued."""

    word: str
    """What people call it."""
    root: str
    """Path under which it is found by its id."""
    find: Callable[[Session, str], tables.Job]
    """Its row. Raises `NotFound`."""


JOB = Owner("job", "/v1/jobs", lambda session, owner_id: jobs.get(session, owner_id))
SEARCH = Owner("search", "/v1/searches", lambda session, owner_id: searches.get(session, owner_id)[0])
