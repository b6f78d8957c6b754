"""The Ray shell around one attempt: runs the pipeline in a thread, numbers its events, keeps them until asked for."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.contracts.events import Event, Failed, Succeeded
from workers.contracts.places import Places
from workers.contracts.recipe import Recipe
from workers.contracts.store import ArtifactStore
from workers.durable import private_folder

logger = logging.getLogger(__name__)

Pipeline = Callable[..., Iterator[Event]]
"""Recipe, store, an empty workspace, places, and the name under which stages are claimed; of a search's trial also
`rungs`, see `workers.pipeline.run`."""

PIPELINE = "workers.attempt:run"
"""What an attempt runs, as `module:function`. Named, not imported: only the worker's machine has torch."""

ENGINE = "workers.tuning:run"
"""What an attempt at a search runs: a function that takes the order and an empty workspace."""

_WORKSPACES = "dress-workspaces"


@dataclass(frozen=True)
class SearchOrder:
    """What an attempt at a search is told besides."""

    spec: dict[str, Any]
    """The search in plain form, see `workers.contracts.search.Search`."""
    record: dict[str, Any]
    """What earlier attempts left, see `workers.contracts.trials.SearchRecord`."""
    concurrency: int
    """Trials at once that the cluster has room for."""
    engine: str = ENGINE


@dataclass(frozen=True)
class Order:
    """What a dispatcher orders: one attempt at one recipe, or at a search."""

    attempt_id: str
    owner: str
    """Who claims stages: the job, so that an attempt need not wait out the claim of the one before it."""
    recipe: dict[str, Any]
    """The recipe in plain form: no class travels, so that versions may differ."""
    places: dict[str, Any]
    store: ArtifactStore
    pipeline: str = PIPELINE
    """What runs the recipe; of a search, each trial's."""
    unpolled_seconds: float = 120.0
    """Nobody asking for so long, the attempt ends itself."""
    stage_seconds: float | None = None
    """A stage of a search's trial may take so long; a job's stages are timed by the database."""
    rungs: tuple[float, ...] = ()
    """Of a search's trial: where in its training it is to report, see `workers.pipeline.run`."""
    search: SearchOrder | None = None
    """Given, the order is for a search, and `recipe` is its base with the resources of one trial."""


Engine = Callable[[Order, Path], Iterator[Event]]
"""An order for a search, and an empty workspace."""


class Shell:
    """One attempt under way. `events` may be called while the pipeline runs, from any thread."""

    def __init__(self, order: Order, changed: threading.Condition | None = None) -> None:
        self._order = order
        self._changed = changed or threading.Condition()
        self._buffer: list[dict[str, Any]] = []
        self._first = 1  # sequence of the buffer's first event
        self._ended = False
        self._stopped = threading.Event()
        self._polled_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=order.attempt_id, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the pipeline to end before its next event; what it still reports is dropped."""
        with self._changed:
            self._stopped.set()
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait for the pipeline's thread to end; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def events(self, after: int, wait_seconds: float) -> dict[str, Any]:
        """The events that follow sequence `after`, waiting for the first if there is none.

        Asking says that those up to `after` are committed: they are forgotten.
        Returns `{node, events: [{sequence, event}]}`.
        """
        deadline = time.monotonic() + wait_seconds
        with self._changed:
            self._polled_at = time.monotonic()
            self._forget(after)
            while not (found := self.waiting_after(after)) and not self._ended:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            self._polled_at = time.monotonic()
            return {"node": socket.gethostname(), "events": found}

    def waiting_after(self, after: int) -> list[dict[str, Any]]:
        """The events at hand that follow sequence `after`."""
        return [
            {"sequence": sequence, "event": event}
            for sequence, event in enumerate(
                self._buffer[max(0, after + 1 - self._first) :], max(after + 1, self._first)
            )
        ]

    def _forget(self, after: int) -> None:
        done = min(after + 1 - self._first, len(self._buffer))
        if done > 0:
            del self._buffer[:done]
            self._first += done

    def _run(self) -> None:
        try:
            with workspace(self._order.attempt_id) as folder, contextlib.closing(self._pipeline(folder)) as reported:
                last = self._pass_on(reported)
        except BaseException as error:
            logger.exception("attempt %s broke", self._order.attempt_id)
            last = _broken(f"{type(error).__name__}: {error}")
        # Told only now that the workspace is gone: the process may be killed from here on.
        self._tell(last)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _pass_on(self, reported: Iterable[Event]) -> Event:
        """Tell what the pipeline reports, but for the last word, which is returned."""
        for event in reported:
            if self._stopped.is_set():
                break
            if isinstance(event, Succeeded | Failed):
                return event
            self._tell(event)
        return _broken("the pipeline ended without a last word")

    def _pipeline(self, folder: Path) -> Generator[Event]:
        if self._order.search is not None:
            engine: Engine = _named(self._order.search.engine)
            yield from engine(self._order, folder)
            return
        run: Pipeline = _named(self._order.pipeline)
        recipe = Recipe.model_validate(self._order.recipe)
        places = Places.model_validate(self._order.places)
        told = {"rungs": self._order.rungs} if self._order.rungs else {}  # only a search's pipelines know the word
        yield from run(recipe, self._order.store, folder, places, self._order.owner, **told)

    def _tell(self, event: Event) -> None:
        with self._changed:
            if self._stopped.is_set():
                return
            self._buffer.append(event.model_dump(mode="json"))
            self._changed.notify_all()


class AttemptActor(Shell):
    """The shell as a Ray actor: it starts by itself, and ends its process when nobody asks any more."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _watch(self) -> None:
        with self._changed:
            while (left := self._polled_at + self._order.unpolled_seconds - time.monotonic()) > 0:
                # Not woken early by events: only asking prolongs the life.
                self._changed.wait(left)
        logger.warning("attempt %s: nobody has asked for %s s", self._order.attempt_id, self._order.unpolled_seconds)
        os._exit(0)


def _named(place: str) -> Any:
    """The function at `module:function`."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


@contextlib.contextmanager
def workspace(attempt_id: str) -> Iterator[Path]:
    """A temporary folder of the attempt's own, removed at the end. Sweeps those that killed attempts left."""
    sweep_workspaces()
    folder = _workspaces() / f"{attempt_id}-{uuid.uuid4().hex}"
    # Under another name until it is locked: a sweep takes what it finds unlocked.
    draft = folder.with_suffix(".draft")
    lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(draft, _lock_of(folder))
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_of(folder).unlink(missing_ok=True)
        os.close(lock)


def sweep_workspaces() -> None:
    """Remove this machine's workspaces whose attempt is dead: the kernel has let go of their locks."""
    try:
        root = _workspaces()
    except PermissionError:
        return  # there is nothing of ours; attempts refuse to start and say why
    for lock_file in root.glob("*.lock"):
        try:
            with lock_file.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
                lock_file.unlink(missing_ok=True)
        except OSError:
            continue  # alive, or swept by somebody else


def _workspaces() -> Path:
    return private_folder(Path(tempfile.gettempdir()) / f"{_WORKSPACES}-{os.getuid()}")


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _broken(message: str) -> Failed:
    return Failed(fault="transient", code="attempt_broke", message=message)
