"""Runs each attempt in a detached Ray actor named by the attempt's id, on this machine's own Ray or a cluster.

For a local Ray, `local_ray.prepare_environment` must run before this module is imported.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util import list_named_actors

from service.dispatch import local_ray
from service.dispatch.runner import Capacity, News, lost, read_answer
from service.domain.lease import Ending
from service.errors import Misconfigured
from workers.actor import AttemptActor, Order, sweep_workspaces
from workers.contracts.recipe import Recipe, Resources

logger = logging.getLogger(__name__)

_IMPORTED_WITH = os.environ.get("RAY_AUTH_TOKEN_PATH")
"""Ray reads its environment once, when it is imported."""

_NAMESPACE = "dress"
_LONG_POLL_SECONDS = 20.0
_THREADS = 8  # a dead dispatcher's question keeps one busy until its time is over
_STUCK_SECONDS = 5
_OUT_OF_MEMORY = "its worker was killed because the node ran out of memory"

_OF_SEARCHES = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals reach the main thread only, and Tune runs in another
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files for TensorBoard: the record is in the database
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # trials report events, not metrics
    "RAY_AIR_NEW_OUTPUT": "0",  # no tables on a terminal that nobody reads
}
"""What Ray Tune reads where a search's actor imports it."""


class RayRunner:
    """Implements `Runner` on Ray. Give it a state folder for a Ray of this machine's own, or an address to join.

    `on_stuck` is called, from a thread, when the local Ray died in the middle of a call to it: such a call hangs for a
    minute, after which Ray ends the process.
    """

    def __init__(self, state_dir: Path, address: str | None = None, on_stuck: Callable[[], None] | None = None) -> None:
        self._state_dir = state_dir
        self._address = address
        self._head: local_ray.Head | None = None
        self._actors: dict[str, Any] = {}
        self._asked: dict[Any, str] = {}  # answer under way -> attempt
        self._unknown: set[str] = set()  # asked for, but not there
        self._connect()
        if on_stuck is not None and self._head is not None:
            threading.Thread(target=self._watch, args=(on_stuck,), name="watch-ray", daemon=True).start()

    def start(self, order: Order) -> None:
        """See `Runner.start`."""
        resources = Recipe.model_validate(order.recipe).resources
        # A search's actor only leads: its trials take the room, and inherit the environment.
        cpus, gpus = (resources.cpus, resources.gpus) if order.search is None else (0, 0)
        self._actors[order.attempt_id] = (
            ray.remote(AttemptActor)
            .options(
                name=order.attempt_id,
                lifetime="detached",
                max_concurrency=_THREADS,
                num_cpus=cpus,
                num_gpus=gpus,
                # Only the queue retries.
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": _environment(resources) | (_OF_SEARCHES if order.search else {})},
            )
            .remote(order)
        )

    def attach(self, attempt_id: str) -> bool:
        """See `Runner.attach`."""
        try:
            self._actors[attempt_id] = ray.get_actor(attempt_id, namespace=_NAMESPACE)
        except ValueError:
            return False
        return True

    def follow(self, attempt_id: str, after: int) -> None:
        """See `Runner.follow`."""
        if attempt_id not in self._actors:
            self._unknown.add(attempt_id)
        elif attempt_id not in self._asked.values():
            self._asked[self._actors[attempt_id].events.remote(after, _LONG_POLL_SECONDS)] = attempt_id

    def wait(self, seconds: float) -> list[News]:
        """See `Runner.wait`."""
        if self._unknown:
            unknown, self._unknown = self._unknown, set()
            return [lost(attempt_id) for attempt_id in unknown]
        if not self._asked:
            time.sleep(seconds)
            return []
        questions = list(self._asked)
        answered, _ = ray.wait(questions, num_returns=1, timeout=seconds)
        if answered:  # take along all that is there by now
            answered, _ = ray.wait(questions, num_returns=len(questions), timeout=0)
        return [self._read(self._asked.pop(answer), answer) for answer in answered]

    def stop(self, attempt_id: str) -> None:
        """See `Runner.stop`."""
        actor = self._actors.pop(attempt_id, None)
        self._unknown.discard(attempt_id)
        self._asked = {answer: asked for answer, asked in self._asked.items() if asked != attempt_id}
        try:
            ray.kill(actor or ray.get_actor(attempt_id, namespace=_NAMESPACE), no_restart=True)
        except (ValueError, RayActorError):
            return  # it is gone already

    def attempts(self) -> set[str]:
        """See `Runner.attempts`."""
        sweep_workspaces()
        return {name for name in list_named_actors() if name.startswith("att_")}

    def free(self) -> Capacity:
        """See `Runner.free`."""
        return _capacity(ray.available_resources())

    def total(self) -> Capacity:
        """See `Runner.total`."""
        return _capacity(ray.cluster_resources())

    def recover(self) -> bool:
        """See `Runner.recover`. A cluster joined by address is its operator's to restart: Ray ends this process after
        a minute without it, and the next dispatcher adopts what it finds."""
        if self._address is not None or (self._head is not None and local_ray.is_alive(self._head)):
            return False
        logger.warning("the local Ray is gone; starting anew")
        self._head = None  # for the watch: we know
        local_ray.stop(self._state_dir)
        self.close()
        self._connect()
        return True

    def close(self) -> None:
        """See `Runner.close`."""
        self._actors.clear()
        self._asked.clear()
        self._unknown.clear()
        ray.shutdown()

    def _connect(self) -> None:
        head = None
        if self._address is None:
            head = local_ray.ensure(self._state_dir)
            if os.environ["RAY_AUTH_TOKEN_PATH"] != _IMPORTED_WITH:
                raise Misconfigured("call local_ray.prepare_environment before this module is imported")
        with _handlers_kept():
            ray.init(
                address=head.address if head else self._address,
                namespace=_NAMESPACE,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )

        self._head = head

    def _watch(self, on_stuck: Callable[[], None]) -> None:
        """While all is well, `recover` notices a dead head in a fraction of a second."""
        dead_seconds = 0
        while dead_seconds < _STUCK_SECONDS:
            time.sleep(1.0)
            head = self._head
            dead_seconds = dead_seconds + 1 if head is not None and not local_ray.is_alive(head) else 0
        on_stuck()

    def _read(self, attempt_id: str, answer: Any) -> News:
        try:
            return read_answer(attempt_id, ray.get(answer, timeout=10.0))
        except (ActorUnavailableError, GetTimeoutError):
            # Unreachable is not failed: ask again.
            return News(attempt_id)
        except OutOfMemoryError:
            return News(attempt_id, ending=Ending("out_of_memory", "out_of_memory", _OUT_OF_MEMORY))
        except RayActorError as error:
            logger.warning("attempt %s: %s", attempt_id, str(error).splitlines()[0])
            return lost(attempt_id)
        except RayTaskError as error:
            return News(attempt_id, ending=Ending("transient", "attempt_broke", str(error).splitlines()[-1]))
        except RayError as error:
            logger.warning("attempt %s does not answer: %s", attempt_id, error)
            return News(attempt_id)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray installs a handler of its own for SIGTERM, which would end the dispatcher in the middle of a commit."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


def _environment(resources: Resources) -> dict[str, str]:
    """What libraries read once, when they are loaded: thread counts, and the workspace with which cuBLAS computes the
    same sums in every run."""
    threads = str(resources.cpus)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    fixed = {"TOKENIZERS_PARALLELISM": "false", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    return {**fixed, **dict.fromkeys(names, threads)}


def _capacity(resources: dict[str, float]) -> Capacity:
    return Capacity(resources.get("CPU", 0.0), resources.get("GPU", 0.0))
