"""One machine's own Ray: a head in a session of its own, which outlives a killed dispatcher and is found again.

Everything listens on the loopback interface, on ports that the kernel chose, and wants a token: several clusters share
a machine, and no neighbour can run code through ours. `ray stop` is never used, it would end them all.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from service.errors import Misconfigured

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 100_000_000  # results go to the artifact store, not through Ray
_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_SOCKET_PATH_BYTES = 107
_LONGEST_TAIL_BYTES = 66  # /session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store


@dataclass(frozen=True)
class Head:
    """A Ray head as recorded in the state folder."""

    pid: int
    created_at: float
    """When the process began, seconds since 1970: with the pid, it tells a process from its successors."""
    address: str
    folder: str
    """Ray's own temporary folder."""


def ensure(state_dir: Path) -> Head:
    """The living head of this state folder, else a new one.

    Raises:
        Misconfigured: Ray does not start; the message names its log.
    """
    prepare_environment(state_dir)
    with _alone(state_dir):
        head = recorded(state_dir)
        if head is not None and is_alive(head):
            logger.info("found Ray at %s (process %s)", head.address, head.pid)
            return head
        _end(state_dir)
        return _start(state_dir)


def recorded(state_dir: Path) -> Head | None:
    """The head that the state folder remembers, alive or not."""
    try:
        return Head(**json.loads((state_dir / "ray.json").read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_alive(head: Head) -> bool:
    """Whether that very process runs and its port answers."""
    if not head.address or _process(head) is None:
        return False
    host, _, port = head.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True


def stop(state_dir: Path) -> None:
    """End this state folder's Ray and all that it started. Harmless if there is none."""
    if recorded(state_dir) is not None:
        with _alone(state_dir):
            _end(state_dir)


def _end(state_dir: Path) -> None:
    head = recorded(state_dir)
    if head is None:
        return
    leader = _process(head)
    if leader is not None:
        leader.send_signal(signal.SIGTERM)
        # Ray takes its own processes with it; a stopped one cannot, so wait no longer than this.
        psutil.wait_procs([leader], timeout=_STOP_SECONDS)
    _kill_rest(head)
    shutil.rmtree(head.folder, ignore_errors=True)
    (state_dir / "ray.json").unlink(missing_ok=True)


def prepare_environment(state_dir: Path) -> None:
    """Set what Ray reads from this process's environment, and hands on to all its workers. Before Ray is imported."""
    state_dir.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(_token_file(state_dir)),
        RAY_USAGE_STATS_ENABLED="0",
        # A killed worker's children die with it, and give back their GPU memory.
        RAY_process_group_cleanup_enabled="1",
        # A worker without GPUs sees none.
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1",
        # In spite of its name: "0" makes Ray keep to the loopback interface on Linux too.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        # SIGTERM would wait half a minute for actors that nobody will end.
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
    )


def _start(state_dir: Path) -> Head:
    folder = _folder(state_dir)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    log = state_dir / "ray.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            _command(folder), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    head = Head(child.pid, psutil.Process(child.pid).create_time(), "", str(folder))
    _record(state_dir, head)
    deadline = time.monotonic() + _START_SECONDS
    announced = folder / "ray_current_cluster"
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            address = announced.read_text("utf-8").strip()
            head = Head(head.pid, head.created_at, address, head.folder)
            if address and is_alive(head):
                _record(state_dir, head)
                logger.info("started Ray at %s (process %s)", head.address, head.pid)
                return head
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.1)
    _end(state_dir)
    raise Misconfigured(f"Ray did not start within {_START_SECONDS:.0f} s; its last words are in {log}")


@contextlib.contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """One process at a time starts or ends this folder's Ray."""
    with (state_dir / ".ray.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _command(folder: Path) -> list[str]:
    options = {
        "node-ip-address": "127.0.0.1",
        "port": "0",
        "min-worker-port": "0",
        "max-worker-port": "0",
        "dashboard-agent-listen-port": "0",
        "include-dashboard": "false",
        "include-log-monitor": "false",
        "object-store-memory": str(_OBJECT_STORE_BYTES),
        "temp-dir": str(folder),
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", *flags]


def _folder(state_dir: Path) -> Path:
    """Ray's folder for this state folder: within it, or where the paths of Ray's sockets would grow too long, a short
    one that only this user may enter."""
    folder = state_dir / "ray"
    if len(os.fsencode(folder)) + _LONGEST_TAIL_BYTES <= _SOCKET_PATH_BYTES:
        return folder
    name = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"dress-ray-{os.getuid()}-{name}"


def _token_file(state_dir: Path) -> Path:
    file = state_dir / "ray-token"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))
    return file


def _record(state_dir: Path, head: Head) -> None:
    draft = state_dir / ".ray.json"
    draft.write_text(json.dumps(asdict(head)), "utf-8")
    os.replace(draft, state_dir / "ray.json")


def _process(head: Head) -> psutil.Process | None:
    try:
        found = psutil.Process(head.pid)
        # Both are rounded to the kernel's clock ticks.
        same = abs(found.create_time() - head.created_at) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return found if same else None


def _kill_rest(head: Head) -> None:
    """Kill what is left of the head's session: its members outlive their leader."""
    for _ in range(10):
        left = list(_members(head))
        if not left:
            return
        for member in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(left, timeout=1.0)
    logger.warning("some processes of Ray's session %s do not end", head.pid)


def _members(head: Head) -> Iterator[psutil.Process]:
    for member in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            # A later session may have got the same number, but none that began before this one.
            ours = os.getsid(member.pid) == head.pid and member.create_time() >= head.created_at - 1.0
            if ours and member.status() != psutil.STATUS_ZOMBIE:
                yield member
