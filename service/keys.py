"""API keys: 256 random bits, of which only a digest is kept."""

import hashlib
import os
import secrets
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.database import locks
from service.database.tables import ApiKey, new_id

_LOCAL_NAME = "this machine"


def ensure_local_key(session: Session, file: Path) -> str:
    """The secret in this machine's key file, made if there is none, and known to the database."""
    secret = _read(file) or _create(file)
    digest = _digest(secret)
    locks.hold(session, f"key:{digest}")  # servers of one state folder may start at once
    if session.scalar(select(ApiKey).where(ApiKey.sha256 == digest)) is None:
        session.add(ApiKey(id=new_id("key"), sha256=digest, name=_LOCAL_NAME))
        session.flush()
    return secret


def authenticate(session: Session, secret: str) -> ApiKey | None:
    """The key that this secret belongs to, unless it is unknown or revoked."""
    # Looked up by digest: the comparison's timing tells nothing about the secret.
    return session.scalar(select(ApiKey).where(ApiKey.sha256 == _digest(secret), ApiKey.revoked_at.is_(None)))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(file: Path) -> str | None:
    try:
        return file.read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def _create(file: Path) -> str:
    """Write a new key beside the file and link it into place: it appears whole, once, readable by its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    secret = "dress_" + secrets.token_urlsafe(32)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(secret + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            # Another process was faster, or the file was empty.
            existing = _read(file)
            if existing:
                return existing
            os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    return secret
