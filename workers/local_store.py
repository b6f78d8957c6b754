"""An artifact store in a folder: bytes by digest, stage results, claims and checkpoints by key.

blobs/ab/abcdef…            bytes, named by their SHA-256
stages/<key>.json           a finished stage's result
claims/<key>.json           who computes a stage now, and until when
checkpoints/<key>/<step>/   a stage's newest checkpoint, see `local_checkpoints`
uploads/ab/abcdef…          texts that were uploaded, named by their SHA-256
drafts/                     what is being written; renamed into place when whole
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from workers.contracts.results import StageResult, StoredFile
from workers.contracts.store import STALE_CHECKPOINT_SECONDS, KeptBytes, KeptResult, OnDisk
from workers.durable import copy_durably as _copy
from workers.durable import place as _place
from workers.durable import transient as _transient
from workers.durable import write_durably as _write_durably
from workers.errors import Transient
from workers.local_checkpoints import LocalCheckpoints
from workers.local_uploads import LocalUploads

_STALE_DRAFT_SECONDS = 24 * 3600.0

log = logging.getLogger(__name__)


class LocalStore:
    """Implements `contracts.store.ArtifactStore` on a folder that all its users see. Cheap to pickle.

    Claims are timed by the machine's clock: users of one folder are on one machine, or share a clock.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    @property
    def uploads(self) -> LocalUploads:
        """The texts that were uploaded."""
        return LocalUploads(self.root)

    def path_of(self, sha256: str) -> Path:
        """Where the bytes of this digest lie, or would lie."""
        return self.root / "blobs" / sha256[:2] / sha256

    def put(self, file: Path, path: str) -> StoredFile:
        """Keep a file's bytes under their digest; `path` is the relative name the result carries.

        Raises:
            Transient: the bytes could not be written.
        """
        with _transient(f"{path} could not be stored in {self.root}"):
            draft = self._draft()
            try:
                sha256, size_bytes = _copy(file, draft)
                # In place of what is there: that may be damaged, and its age begins anew, which `delete` heeds.
                os.utime(draft)
                with self._lock("blobs", fcntl.LOCK_SH):
                    _place(draft, self.path_of(sha256))
            finally:
                draft.unlink(missing_ok=True)
        return StoredFile(path=path, sha256=sha256, size_bytes=size_bytes)

    def fetch(self, stored: StoredFile, folder: Path) -> Path:
        """Copy the bytes to `folder / stored.path`, verified, and return that path.

        Raises:
            Transient: the bytes are missing, do not match their digest or cannot be written.
        """
        target = folder / stored.path
        source = self.path_of(stored.sha256)
        with _transient(f"{stored.path} could not be fetched from {self.root}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                # A copy, not a link: whoever edits the copy must not edit the store.
                before = source.stat()
                sha256, _ = _copy(source, draft)
                if sha256 == stored.sha256:
                    os.replace(draft, target)
            finally:
                draft.unlink(missing_ok=True)
        if sha256 != stored.sha256:
            self._discard_damaged(source, before)
            raise Transient(
                f"the stored bytes of {stored.path} ({stored.sha256}) are damaged (disk?); they will be made again"
            )
        return target

    def find(self, key: str) -> StageResult | None:
        """The result of the stage with this key, if it exists and all its files are there in full size."""
        place = self._result_file(key)
        try:
            with suppress(OSError), self._lock("stages", fcntl.LOCK_SH):
                os.utime(place)  # needed again: `drop_result` heeds it
            result = StageResult.model_validate_json(place.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        except OSError as error:
            raise Transient(f"{self.root} cannot be read: {error}") from error
        whole = all(_is_whole(self.path_of(file.sha256), file.size_bytes) for file in result.files)
        return result if whole else None

    def publish(self, result: StageResult) -> None:
        """Make a finished stage's result findable by its key.

        Raises:
            Transient: it could not be written.
        """
        with _transient(f"a stage's result could not be written to {self.root}"):
            self._write(result.model_dump_json(), self._result_file(result.key))

    def claim(self, key: str, owner: str, ttl_seconds: float) -> bool:
        """Reserve the computation of a key, or prolong one's own claim. False while another's claim is in force."""
        with _transient(f"a claim could not be written to {self.root}"), self._lock("claims", fcntl.LOCK_EX):
            holder, expires_at = self._claim_of(key)
            if holder not in (None, owner) and expires_at > time.time():
                return False
            claim = {"owner": owner, "expires_at": time.time() + ttl_seconds}
            self._write(json.dumps(claim), self._claim_file(key))
            return True

    def release(self, key: str, owner: str) -> None:
        """Give up one's claim, if it is still one's own."""
        with _transient(f"a claim could not be removed from {self.root}"), self._lock("claims", fcntl.LOCK_EX):
            if self._claim_of(key)[0] == owner:
                self._claim_file(key).unlink(missing_ok=True)

    def save_checkpoint(self, key: str, step: int, folder: Path) -> None:
        """Keep the files of `folder` as the stage's newest checkpoint, then remove older ones.

        Raises:
            Transient: it could not be written; the older checkpoint is still there.
        """
        with _transient(f"no checkpoint can be written to {self.root}"):
            draft = self._draft()
        self._checkpoints(key).save(step, folder, draft)

    def load_checkpoint(self, key: str, folder: Path) -> int | None:
        """Place the newest checkpoint's files in `folder` and return its step, or None if there is none.

        Raises:
            Transient: it could not be read or copied.
        """
        return self._checkpoints(key).load(folder)

    def drop_checkpoint(self, key: str) -> None:
        """Forget the stage's checkpoints; its result is published."""
        self._checkpoints(key).drop()

    def holds(self, sha256: str) -> bool:
        """See `ArtifactStore.holds`."""
        return self.path_of(sha256).is_file()

    def where(self, sha256: str, url_seconds: float) -> OnDisk | None:
        """See `ArtifactStore.where`."""
        file = self.path_of(sha256)
        return OnDisk(file) if file.is_file() else None

    def digests(self, older_than_seconds: float) -> Iterator[KeptBytes]:
        """See `ArtifactStore.digests`."""
        with _transient(f"{self.root} cannot be listed"):
            for file in (self.root / "blobs").glob("??/*"):
                try:
                    found = file.stat()
                except FileNotFoundError:
                    continue
                age_seconds = max(0.0, time.time() - found.st_mtime)
                if age_seconds >= older_than_seconds:
                    yield KeptBytes(file.name, found.st_size, age_seconds)

    def delete(self, sha256: str, older_than_seconds: float) -> bool:
        """See `ArtifactStore.delete`. Readers that have the file open keep its bytes."""
        file = self.path_of(sha256)
        with _transient(f"{sha256} could not be removed from {self.root}"), self._lock("blobs", fcntl.LOCK_EX):
            if not file.exists() or _age_seconds(file) < older_than_seconds:
                return False
            file.unlink()
            return True

    def results(self) -> Iterator[KeptResult]:
        """See `ArtifactStore.results`."""
        with _transient(f"{self.root} cannot be listed"):
            for place in (self.root / "stages").glob("*.json"):
                try:
                    digests = self._named_by(place)
                    idle_seconds = max(0.0, time.time() - place.stat().st_mtime)
                except FileNotFoundError:
                    continue
                if digests:
                    yield KeptResult(place.stem, frozenset(digests), idle_seconds)

    def drop_result(self, key: str, idle_seconds: float) -> bool:
        """See `ArtifactStore.drop_result`."""
        place = self._result_file(key)
        with _transient(f"a result could not be removed from {self.root}"), self._lock("stages", fcntl.LOCK_EX):
            if place.exists() and _age_seconds(place) < idle_seconds:
                return False
            place.unlink(missing_ok=True)
            return True

    def forget(self, keys: Iterable[str]) -> None:
        """Remove these stages' results and the bytes that they alone name; a result of figures without files stays.

        Nobody else may write to the store meanwhile.
        """
        places = {place.stem: place for place in (self.root / "stages").glob("*.json")}
        named = {key: self._named_by(place) for key, place in places.items()}
        gone = {key for key in keys if named.get(key)}
        for key in gone:
            places[key].unlink(missing_ok=True)
        kept = {sha256 for key, held in named.items() if key not in gone for sha256 in held}
        for sha256 in {sha256 for key in gone for sha256 in named[key]} - kept:
            self.path_of(sha256).unlink(missing_ok=True)

    def _named_by(self, stage: Path) -> set[str]:
        """Digests of the files that a stored result names."""
        try:
            return {file.sha256 for file in StageResult.model_validate_json(stage.read_bytes()).files}
        except ValidationError:
            return set()

    def sweep(self) -> None:
        """Remove drafts that a killed writer left a day ago or earlier, and checkpoints that nobody will go on from."""
        for checkpoints in (self.root / "checkpoints").glob("*"):
            finished = (self.root / "stages" / f"{checkpoints.name}.json").exists()
            if finished or _age_seconds(checkpoints) > STALE_CHECKPOINT_SECONDS:
                shutil.rmtree(checkpoints, ignore_errors=True)
        for draft in (self.root / "drafts").glob("*"):
            try:
                if draft.stat().st_mtime > time.time() - _STALE_DRAFT_SECONDS:
                    continue
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
            except OSError:
                continue

    def _draft(self) -> Path:
        """A new name in the store's own file system, from where a rename is atomic."""
        drafts = self.root / "drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        return drafts / uuid.uuid4().hex

    def _write(self, text: str, target: Path) -> None:
        draft = self._draft()
        try:
            _write_durably(text, draft)
            _place(draft, target)
        finally:
            draft.unlink(missing_ok=True)

    def _checkpoints(self, key: str) -> LocalCheckpoints:
        return LocalCheckpoints(self.root / "checkpoints" / key)

    def _discard_damaged(self, file: Path, damaged: os.stat_result) -> None:
        """Out of the way, so that the stage that made it is computed again; unless somebody has done so already."""
        log.error("the bytes of %s do not match their digest; removing them", file)
        with _transient(f"{file} could not be removed"), self._lock("blobs", fcntl.LOCK_EX):
            if file.exists() and os.path.samestat(file.stat(), damaged):
                file.unlink()

    def _result_file(self, key: str) -> Path:
        return self.root / "stages" / f"{key}.json"

    def _claim_file(self, key: str) -> Path:
        return self.root / "claims" / f"{key}.json"

    def _claim_of(self, key: str) -> tuple[str | None, float]:
        try:
            claim = json.loads(self._claim_file(key).read_text("utf-8"))
            return str(claim["owner"]), float(claim["expires_at"])
        except FileNotFoundError:
            return None, 0.0
        except (ValueError, KeyError, TypeError):
            return None, 0.0  # no whole claim is ever written otherwise: not ours to honour

    @contextmanager
    def _lock(self, name: str, kind: int) -> Iterator[None]:
        """Those who hold a lock of this folder for themselves, or share it; the kernel lets go when a holder dies."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, kind)
            yield


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _is_whole(file: Path, size_bytes: int) -> bool:
    try:
        return file.stat().st_size == size_bytes
    except OSError:
        return False
