"""`dress up`: keeps the parts of the service alive on one machine, and ends all of them when told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from rich.console import Console
from rich.markup import escape

from api.connection import key_file, url_file

DISPATCH = ("-m", "service.dispatch")
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
STOP_RAY_SECONDS = 60.0
QUICK_SECONDS = 20.0
"""A part that lived no longer died quickly."""
QUICK_DEATHS = 5
"""So many in a row, and it is not started again."""
LONGEST_PAUSE_SECONDS = 8.0
LOG_BYTES = 16 * 1024 * 1024
"""A log larger than this at the start becomes `NAME.log.1`."""


class CannotStart(Exception):  # an answer to the user, not a fault
    """`dress up` cannot do its work. The message says why and what to do."""


@dataclass
class Part:
    """A process that shall always run."""

    name: str
    arguments: Sequence[str]
    log: Path
    descriptors: tuple[int, ...] = ()
    """Open files that it inherits."""
    process: asyncio.subprocess.Process | None = field(default=None, init=False)


class GaveUp(Exception):  # ends the supervision
    """A part died too often."""


def run(host: str, port: int, state: Path, console: Console) -> int:
    """Start everything, keep it running, end it on SIGTERM or SIGINT; the exit status.

    Raises:
        CannotStart: another `dress up` has this state folder, the port is taken, or the database cannot be migrated.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    state.chmod(0o700)
    (state / "logs").mkdir(exist_ok=True)
    with _alone(state), _listening(host, port) as listener:
        os.environ["DRESS_STATE_DIR"] = str(state)
        try:
            return asyncio.run(_Supervisor(state, host, listener, console).run())
        finally:
            url_file(state).unlink(missing_ok=True)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the state folder: one `dress up` each. The lock ends with this process, however it ends."""
    with (state / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise CannotStart(f"`dress up` already runs with {state} (process {owner}); stop it first") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """The API's socket. It stays here while the API is restarted, so that callers wait instead of being refused."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
    except OSError as error:
        remedy = "; choose another with --port (0 takes a free one)" if isinstance(error, OSError) and port else ""
        raise CannotStart(f"cannot listen on {host} port {port}: {error.strerror}{remedy}") from error
    with listener:
        yield listener


class _Supervisor:
    """One run of `dress up`."""

    def __init__(self, state: Path, host: str, listener: socket.socket, console: Console) -> None:
        self._state = state
        self._console = console
        self._stop = asyncio.Event()
        port = listener.getsockname()[1]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        # A wildcard address is no address to call.
        self._own_url = f"http://localhost:{port}" if host in ("0.0.0.0", "::", "") else self._url  # noqa: S104
        logs = state / "logs"
        descriptor = listener.fileno()
        serve = ["-m", "api", "--host", host, "--port", str(port), "--fd", str(descriptor)]
        self._api = Part("api", serve, logs / "api.log", (descriptor,))
        self._dispatcher = Part("dispatch", DISPATCH, logs / "dispatch.log")

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        await self._migrate()
        tasks = [asyncio.create_task(self._keep(part)) for part in (self._api, self._dispatcher)]
        tasks.append(asyncio.create_task(self._announce()))
        stopping = asyncio.create_task(self._stop.wait())
        status = 0
        try:
            waiting = {*tasks, stopping}
            while stopping in waiting and not stopping.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopping}:
                    task.result()
        except GaveUp as error:
            self._say(f"[red]{escape(str(error))}[/]")
            status = 1
        finally:
            await self._end(tasks, stopping)
        return status

    async def _migrate(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service.database", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        told, _ = await process.communicate()
        if process.returncode:
            raise CannotStart(f"the database cannot be migrated:\n{told.decode(errors='replace').strip()}")

    async def _keep(self, part: Part) -> None:
        """Start a part, and again whenever it ends.

        Raises:
            GaveUp: it died quickly too often.
        """
        quick = 0
        while not self._stop.is_set():
            began = time.monotonic()
            status = await self._live(part)
            if self._stop.is_set():
                return
            quick = quick + 1 if time.monotonic() - began < QUICK_SECONDS else 0
            reason = f"{part.name} ended with status {status}"
            if quick >= QUICK_DEATHS:
                raise GaveUp(f"{reason} {quick} times in a row; giving up. {part.log} ends with:\n{_end_of(part.log)}")
            pause = min(0.25 * 2**quick, LONGEST_PAUSE_SECONDS)
            self._say(f"[yellow]{reason}; starting it again in {pause:g} s (log: {part.log})[/]")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    async def _live(self, part: Part) -> int:
        """One life of a part; its exit status."""
        with _opened(part.log) as log:
            part.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *part.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=part.descriptors,
                start_new_session=True,  # Ctrl-C reaches `dress up` alone, which ends its parts in order
                preexec_fn=_die_with_parent,
            )
        if self._stop.is_set():  # told to stop while the process was being made
            _signal(part, signal.SIGTERM)
        return await part.process.wait()

    async def _announce(self) -> None:
        """Tell the address, here and in the state folder, once requests are served."""
        await self._until_ready()
        draft = url_file(self._state).with_suffix(".draft")
        draft.write_text(self._own_url + "\n", "utf-8")
        draft.replace(url_file(self._state))
        self._say(f"DReSS is up: {self._url}")
        self._say(f"  API key: {key_file(self._state)}   logs: {self._state / 'logs'}   stop: Ctrl-C")

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
            while time.monotonic() < deadline:
                with suppress(httpx2.TransportError):
                    answer = await http.get(f"{self._own_url}/readyz")
                    if answer.is_success:
                        return
                await asyncio.sleep(0.1)
        raise GaveUp(f"the API is not ready after {READY_SECONDS:g} s. Its log ends with:\n{_end_of(self._api.log)}")

    async def _end(self, tasks: Sequence[asyncio.Task[None]], stopping: asyncio.Task[bool]) -> None:
        """End the API, then the dispatcher, then the local Ray."""
        self._stop.set()
        self._say("stopping")
        url_file(self._state).unlink(missing_ok=True)
        for part, keeping in zip((self._api, self._dispatcher), tasks, strict=False):
            _signal(part, signal.SIGTERM)
            ended, _ = await asyncio.wait({keeping}, timeout=STOP_SECONDS)
            if not ended:
                self._say(f"[yellow]{part.name} does not end; killing it[/]")
                _signal(part, signal.SIGKILL)
                await asyncio.wait({keeping}, timeout=STOP_SECONDS)
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)
        await self._stop_ray()

    async def _stop_ray(self) -> None:
        with _opened(self._dispatcher.log) as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *DISPATCH, "--stop-ray", stdout=log, stderr=log, start_new_session=True
            )
        try:
            status = await asyncio.wait_for(process.wait(), STOP_RAY_SECONDS)
        except TimeoutError:
            process.kill()
            status = await process.wait()
        if status:
            self._say(f"[yellow]the local Ray may still run (status {status}); see {self._dispatcher.log}[/]")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def _signal(part: Part, number: signal.Signals) -> None:
    if part.process is not None and part.process.returncode is None:
        with suppress(ProcessLookupError):
            part.process.send_signal(number)


@contextmanager
def _opened(log: Path) -> Iterator[int]:
    """A log to append to, begun anew if it has grown large."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))
    with log.open("ab") as stream:
        yield stream.fileno()


def _end_of(log: Path, lines: int = 15) -> str:
    with suppress(OSError):
        return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-lines:])
    return "(no log)"


_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


def _die_with_parent() -> None:
    """Runs in a new child: the kernel tells it to end when `dress up` dies, even of SIGKILL (Linux)."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
