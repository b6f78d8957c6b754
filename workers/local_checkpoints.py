"""Checkpoints in the folder of an artifact store: whole folders by step, with the digests of their files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from workers.durable import Damaged, copy_durably, sync_folder, transient, write_durably

_DIGESTS = ".digests.json"
"""In a checkpoint's folder: SHA-256 by the file's relative path. Earlier versions wrote none."""

log = logging.getLogger(__name__)


class LocalCheckpoints:
    """The checkpoints of one stage, `<folder>/<step>/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, source: Path, draft: Path) -> None:
        """Keep the files of `source` as the newest checkpoint, then remove older ones.

        Args:
            draft: a new name in the same file system.

        Raises:
            StorageFull, Transient: it could not be written; the older checkpoint is still there.
        """
        target = self.folder / f"{step:012d}"
        with transient(f"the checkpoint of step {step} could not be stored in {self.folder.parent}"):
            try:
                # Key and step say what it holds: one that is there already is as good.
                if not target.exists():
                    _copy_tree(source, draft)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(draft, target)
                sync_folder(target.parent)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        for older in self._steps():
            if older.name < target.name:
                shutil.rmtree(older, ignore_errors=True)

    def load(self, folder: Path) -> int | None:
        """Place the newest checkpoint's files, verified, in `folder` and return its step, or None if there is none.

        Raises:
            Transient: it could not be read or copied.
        """
        with transient(f"the checkpoint could not be read from {self.folder.parent}"):
            for newest in reversed(self._steps()):
                try:
                    _verify(shutil.copytree(newest, folder, dirs_exist_ok=True))
                except Damaged as error:
                    log.error("%s is passed over and removed: %s", newest, error)
                    for file in (path for path in newest.rglob("*") if path.is_file()):
                        (folder / file.relative_to(newest)).unlink(missing_ok=True)
                    shutil.rmtree(newest, ignore_errors=True)
                    continue
                except OSError:
                    if newest.exists():
                        raise
                    continue  # replaced by a newer one meanwhile
                return int(newest.name)
        return None

    def drop(self) -> None:
        """Forget them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[Path]:
        """Oldest first: the names are as long as each other."""
        found = self.folder.iterdir() if self.folder.is_dir() else iter(())
        return sorted(path for path in found if path.name.isdigit())


def _copy_tree(source: Path, target: Path) -> None:
    target.mkdir()
    digests = {}
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            digests[path.relative_to(source).as_posix()] = copy_durably(path, copy)[0]
    write_durably(json.dumps(digests), target / _DIGESTS)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        sync_folder(folder)


def _verify(folder: Path) -> None:
    """Compare a copy with what was written.

    Raises:
        Damaged: a file is missing, or another.
    """
    listing = folder / _DIGESTS
    if not listing.exists():
        return
    try:
        digests = json.loads(listing.read_bytes())
    except ValueError as error:
        raise Damaged(f"{_DIGESTS} cannot be read") from error
    listing.unlink()
    for name, sha256 in digests.items():
        try:
            with (folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise Damaged(f"{name} is missing") from error
        if found != sha256:
            raise Damaged(f"{name} does not match its digest {sha256}")
