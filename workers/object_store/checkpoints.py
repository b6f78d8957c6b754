"""Checkpoints in an object store: files first, then the list that makes them a checkpoint."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from workers.contracts.results import StoredFile
from workers.contracts.store import STALE_CHECKPOINT_SECONDS
from workers.durable import Damaged, transient
from workers.object_store.bucket import Bucket
from workers.object_store.sending import send_file

_UNLISTED_SECONDS = 24 * 3600.0
_TRIES = 3
"""A checkpoint may be replaced by a newer one while it is read."""
_FILES = TypeAdapter(list[StoredFile])

log = logging.getLogger(__name__)


class Checkpoints:
    """`checkpoints/<key>/<step>/…` are files, `checkpoints/<key>/<step>.json` names them with sizes and digests."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def save(self, key: str, step: int, folder: Path) -> None:
        """See `ArtifactStore.save_checkpoint`."""
        root = f"checkpoints/{key}/{step:012d}"
        there = [each.path for each in self._bucket.listed(f"checkpoints/{key}")]
        # Key and step say what it holds: one that is there already is as good.
        if f"{root}.json" not in there:
            files = []
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = file.relative_to(folder).as_posix()
                sha256, size_bytes = send_file(self._bucket, file, f"{root}/{name}")
                files.append(StoredFile(path=name, sha256=sha256, size_bytes=size_bytes))
            self._bucket.write(f"{root}.json", _FILES.dump_json(files))
        older = [path for path in there if path.split("/")[2].removesuffix(".json") < root.split("/")[2]]
        # Lists first: what is no longer listed is no checkpoint, so none is ever seen with files missing.
        self._bucket.delete([path for path in older if _is_list(path)])
        self._bucket.delete([path for path in older if not _is_list(path)])

    def load(self, key: str, folder: Path) -> int | None:
        """See `ArtifactStore.load_checkpoint`."""
        for _ in range(_TRIES):
            found = sorted((each.path for each in self._bucket.listed(f"checkpoints/{key}")), reverse=True)
            for listing in filter(_is_list, found):
                step = listing.rpartition("/")[2].removesuffix(".json")
                try:
                    self._fetch(listing, folder)
                except Damaged as error:
                    log.error("the checkpoint of step %s of stage %s is passed over: %s", int(step), key, error)
                    self._bucket.delete(listing)
                    continue
                except LookupError:
                    break  # replaced by a newer one meanwhile
                return int(step)
            else:
                return None
        return None

    def drop(self, key: str) -> None:
        """See `ArtifactStore.drop_checkpoint`."""
        found = [each.path for each in self._bucket.listed(f"checkpoints/{key}")]
        self._bucket.delete([path for path in found if _is_list(path)])
        self._bucket.delete([path for path in found if not _is_list(path)])

    def sweep(self, now_seconds: float) -> None:
        """Remove checkpoints of stages that are finished, those that nobody will go on from, and files of none."""
        by_key: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for each in self._bucket.listed("checkpoints"):
            by_key[each.path.split("/")[1]].append((each.path, now_seconds - each.modified_seconds))
        for key, found in by_key.items():
            age_seconds = min(age for _, age in found)
            if age_seconds > STALE_CHECKPOINT_SECONDS or self._bucket.look(f"stages/{key}.json") is not None:
                self.drop(key)
                continue
            listed = {path.removesuffix(".json") for path, _ in found if _is_list(path)}
            stray = [
                path
                for path, age in found
                if not _is_list(path) and "/".join(path.split("/")[:3]) not in listed and age > _UNLISTED_SECONDS
            ]
            self._bucket.delete(stray)

    def _fetch(self, listing: str, folder: Path) -> None:
        """Place a checkpoint's files.

        Raises:
            LookupError: it is gone.
            Damaged: it is not what was written.
        """
        content = self._bucket.read(listing)
        if content is None:
            raise LookupError(listing)
        try:
            files = _FILES.validate_json(content)
        except ValidationError as error:
            raise Damaged(f"{listing} is no list of files") from error
        try:
            for stored in files:
                self._fetch_file(f"{listing.removesuffix('.json')}/{stored.path}", stored, folder / stored.path)
        except (Damaged, LookupError):
            for stored in files:
                (folder / stored.path).unlink(missing_ok=True)
            raise

    def _fetch_file(self, path: str, stored: StoredFile, target: Path) -> None:
        found = self._bucket.look(path)
        if found is None:
            raise LookupError(path)
        if found.size_bytes != stored.size_bytes:
            raise Damaged(f"{stored.path} has {found.size_bytes} bytes, not {stored.size_bytes}")
        digest = hashlib.sha256()
        with transient(f"{stored.path} of a checkpoint could not be written to {target.parent}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as writing:
                for part in self._bucket.parts(path, 0, stored.size_bytes):
                    digest.update(part)
                    writing.write(part)
        if digest.hexdigest() != stored.sha256:
            raise Damaged(f"{stored.path} does not match its digest {stored.sha256}")


def _is_list(path: str) -> bool:
    """Whether this is a checkpoint's list, not one of its files."""
    return path.count("/") == 2
