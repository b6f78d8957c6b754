"""Looking at the processes of a `dress up`, and waiting for what they do, without sleeping for luck."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

DEADLINE_SECONDS = 60.0


def interruptible(module: str, *arguments: str) -> list[str]:
    """A command that runs the module, and heeds SIGINT whoever started the tests.

    A shell without job control has its background commands ignore SIGINT, and their children inherit that: a test that
    interrupts a child would then wait for ever.
    """
    code = (
        "import runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.argv[0] = sys.argv.pop(1)\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    return [sys.executable, "-c", code, module, *arguments]


def until(condition: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> Any:
    """What the condition returns once it is true."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.02)
    return value


def serving(state: Path) -> list[psutil.Process]:
    """Every living process, but for this one, that serves this state folder."""
    return [each for each in psutil.process_iter() if each.pid != os.getpid() and _serves(each, state)]


def part(state: Path, module: str) -> psutil.Process | None:
    """The running part of the service that this module is, such as `api`."""
    found = [each for each in serving(state) if each.cmdline()[1:3] == ["-m", module]]
    return found[0] if found else None


def _serves(process: psutil.Process, state: Path) -> bool:
    try:
        is_alive = process.status() != psutil.STATUS_ZOMBIE
        return is_alive and process.environ().get("DRESS_STATE_DIR") == str(state)
    except psutil.Error:
        return False
