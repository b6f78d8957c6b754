"""A stand-in for a cluster's node, without Ray: a process that forks one child for each attempt.

    python -m tests.faults.node FOLDER LOCK_DESCRIPTOR

It listens on FOLDER/node, each child on FOLDER/ATTEMPT_ID; a question and its answer are a pickle each. Killing its
process group is losing the node. Forking takes milliseconds where an actor of Ray's takes seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from tests.faults import staged_pipeline  # loaded here, for all children
from workers.actor import AttemptActor, Order

assert staged_pipeline.STAGES

PATIENCE_SECONDS = 1.0
"""So long a dispatcher that was stopped in the middle of a question keeps the others waiting."""
UNASKED_SECONDS = 120.0
"""A node that nobody has asked anything for so long ends itself: the campaign was killed."""
_TRIES = 5
_ROOT = "dress-node-"


@dataclass(frozen=True)
class Record:
    """Which node there is; in the file `node.json` of the state folder."""

    pid: int
    began: float
    """When its process was created: process ids come again."""
    folder: str
    """Of its sockets. Short: the kernel takes no path beyond a hundred letters."""

    @property
    def lives(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.began and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def recorded(state: Path) -> Record | None:
    """The newest node, dead or alive."""
    try:
        return Record(**json.loads((state / "node.json").read_text("utf-8")))
    except FileNotFoundError:
        return None


def ensure(state: Path) -> Record:
    """The node that lives; a new one where there is none. Whoever else wants one meanwhile waits, and finds it."""
    for _ in range(_TRIES):
        with (state / "node.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = recorded(state)
            if found is not None and found.lives:
                return found
            # The new node inherits the lock, and lets go of it once it can be found; or dies.
            with (state / "node.log").open("ab") as log:
                subprocess.Popen(
                    [sys.executable, "-m", __name__, str(state), str(lock.fileno())],
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,
                    stdout=log,
                    stderr=log,
                )
    raise RuntimeError(f"no node starts; see {state / 'node.log'}")


class _Question(socketserver.StreamRequestHandler):
    """One question, one answer."""

    timeout = PATIENCE_SECONDS

    def handle(self) -> None:
        try:
            answer = cast("Node | Attempt", self.server).answer(*pickle.load(self.rfile))
        except (EOFError, OSError, pickle.UnpicklingError):
            return  # whoever asked is no more
        self.wfile.write(pickle.dumps(answer))


class Attempt(socketserver.ThreadingUnixStreamServer):
    """What a child answers."""

    daemon_threads = True
    request_queue_size = 64
    actor: AttemptActor

    def answer(self, after: int, wait_seconds: float) -> dict[str, Any]:
        return self.actor.events(after, wait_seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked was killed before it was answered: nothing to be said."""


class Node(socketserver.UnixStreamServer):
    """What the node answers. It has one thread, so that it can fork."""

    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder / "node"), _Question)
        self._folder = folder
        self._children: dict[str, int] = {}
        self._asked_at = time.monotonic()

    def answer(self, asked: str, *arguments: Any) -> Any:
        self._asked_at = time.monotonic()
        return getattr(self, asked)(*arguments)

    def start(self, order: Order) -> None:
        """Fork a child for an attempt. It can be asked before it runs: its socket is there already."""
        listener = Attempt(str(self._folder / order.attempt_id), _Question)
        child = os.fork()
        if child == 0:
            try:
                self.socket.close()
                listener.actor = AttemptActor(order)
                listener.serve_forever()
            finally:
                os._exit(1)
        # Else the next child would inherit it, and answer for a dead one.
        listener.server_close()
        self._children[order.attempt_id] = child

    def stop(self, attempt_id: str) -> None:
        """Kill an attempt's child. Harmless if there is none."""
        self.service_actions()
        child = self._children.get(attempt_id)
        if child is not None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            self._forget(attempt_id)

    def attempts(self) -> dict[str, int]:
        """The attempts that are there, and their process ids."""
        self.service_actions()
        return self._children

    def service_actions(self) -> None:
        """Forget the children that have ended; end with all of them once nobody asks any more."""
        if time.monotonic() - self._asked_at > UNASKED_SECONDS:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.killpg(0, signal.SIGKILL)
        for attempt_id, child in list(self._children.items()):
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                self._forget(attempt_id)

    def _forget(self, attempt_id: str) -> None:
        del self._children[attempt_id]
        (self._folder / attempt_id).unlink(missing_ok=True)


def main() -> None:
    state, lock = Path(sys.argv[1]), int(sys.argv[2])
    folder = Path(tempfile.mkdtemp(prefix=_ROOT))
    node = Node(folder)
    record = Record(os.getpid(), psutil.Process().create_time(), str(folder))
    draft = state / "node.draft"
    draft.write_text(json.dumps(asdict(record)), "utf-8")
    draft.rename(state / "node.json")
    os.close(lock)
    print(f"{time.time():.3f} node {record.pid} in {folder}", flush=True)
    node.serve_forever(poll_interval=0.2)


if __name__ == "__main__":
    main()
