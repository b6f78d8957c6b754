"""What followers cost the others: one API process, 500 open event streams, and the latency of other routes meanwhile.

`make bench` runs this. Events are committed at a steady pace all the time, with and without followers, so that the
followers alone make the difference. Aim: p99 of the other routes unharmed. Every follower must get every event.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from service import events, jobs, queue
from service.database.schema import upgrade
from service.database.session import Database
from service.settings import Settings
from workers.contracts.recipe import Recipe

RECIPE = Recipe.model_validate({"model": {"source": "some/model"}, "method": {"kind": "dress", "ratio": 0.25}})
READY_SECONDS = 60.0
WAIT_SECONDS = 60.0


class Server:
    """An API process on a state folder of its own, and jobs with a writer of events."""

    def __init__(self, folder: Path, count: int) -> None:
        self.settings = Settings(state_dir=folder)
        self.database = Database(self.settings.database_url)
        upgrade(self.database)
        with self.database.writing() as session:
            submit = {"recipe": RECIPE, "metadata": {}, "labels": {}, "priority": 0}
            self.jobs = [queue.enqueue(session, **submit).id for _ in range(count)]
        self._stop = threading.Event()
        self.written = 0

    @contextmanager
    def serving(self) -> Iterator[httpx2.AsyncClient]:
        """While the block runs."""
        environment = {**os.environ, "DRESS_STATE_DIR": str(self.settings.state_dir)}
        command = [sys.executable, "-m", "api", "--port", str(port := _free_port())]
        with (self.settings.state_dir / "api.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            self._until_ready(f"http://127.0.0.1:{port}")
            key = self.settings.api_key_file.read_text("utf-8").strip()
            yield httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{port}/v1",
                headers={"Authorization": f"Bearer {key}"},
                limits=httpx2.Limits(max_connections=None),
                timeout=WAIT_SECONDS,
            )
        finally:
            process.terminate()
            process.wait()

    @contextmanager
    def happening(self, a_second: float) -> Iterator[None]:
        """While the block runs, so many events are committed a second, one job after the other."""

        def write() -> None:
            while not self._stop.wait(1 / a_second):
                self.tell(self.jobs[self.written % len(self.jobs)])
                self.written += 1

        self._stop.clear()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            yield
        finally:
            self._stop.set()
            writer.join()

    def tell(self, job_id: str) -> None:
        """Commit an event."""
        with self.database.writing() as session:
            events.append(session, jobs.get(session, job_id), "notice", {"message": "something happened"})

    def end(self) -> None:
        """Bring every job to its end, so that the streams close."""
        for job_id in self.jobs:
            with self.database.writing() as session:
                jobs.cancel(session, job_id)

    def _until_ready(self, url: str) -> None:
        deadline, pause = time.monotonic() + READY_SECONDS, threading.Event()
        while True:
            try:
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"the API is not ready: {(self.settings.state_dir / 'api.log').read_text('utf-8')}")
            pause.wait(0.1)


async def follow(client: httpx2.AsyncClient, job_id: str, connected: asyncio.Semaphore) -> int:
    """Follow a job to its end; how many events came. Raises if one is missing or comes twice."""
    numbers = []
    async with client.stream("GET", f"/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}) as answer:
        connected.release()
        async for line in answer.aiter_lines():
            if line.startswith("id:"):
                numbers.append(int(line[3:]))
    if numbers != list(range(1, len(numbers) + 1)):
        raise SystemExit(f"a follower of {job_id} got events {numbers}")
    return len(numbers)


async def latencies(client: httpx2.AsyncClient, server: Server, seconds: float) -> list[float]:
    """Of other routes, asked one after the other for so long, seconds."""
    found, began = [], time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        job_id = server.jobs[len(found) % len(server.jobs)]
        for path in (f"/jobs/{job_id}", "/jobs?limit=20"):
            started = time.perf_counter()
            (await client.get(path)).raise_for_status()
            found.append(time.perf_counter() - started)
        await asyncio.sleep(max(0.0, 0.02 - (time.monotonic() - now)))
    return found


async def measured(server: Server, followers: int, seconds: float, pace: float) -> None:
    """Print the latencies alone and beside the followers, in turns."""
    with server.serving() as client, server.happening(pace):
        await latencies(client, server, 2.0)  # warm
        alone = await latencies(client, server, seconds)
        connected = asyncio.Semaphore(0)
        following = [
            asyncio.create_task(follow(client, server.jobs[number % len(server.jobs)], connected))
            for number in range(followers)
        ]
        for _ in range(followers):
            await asyncio.wait_for(connected.acquire(), WAIT_SECONDS)
        await latencies(client, server, 2.0)  # the first events of all, read from the beginning
        beside = await latencies(client, server, seconds)
        server.end()
        counts = await asyncio.wait_for(asyncio.gather(*following), WAIT_SECONDS)
    for name, found in (("alone", alone), (f"beside {followers} followers", beside)):
        print(
            f"  {name:22} N {len(found):5}: median {1000 * statistics.median(found):6.1f} ms, p99 {_p99(found):6.1f} ms"
        )
    print(
        f"p99 beside followers over p99 alone: {_p99(beside) / _p99(alone):.2f}; every follower got every event, "
        f"{sum(counts):,} in all at {pace:.0f} commits a second"
    )


def _p99(seconds: list[float]) -> float:
    """Milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=100)[98]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--followers", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--pace", type=float, default=10.0, help="events committed a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dress-bench-") as folder:
        server = Server(Path(folder), options.jobs)
        asyncio.run(measured(server, options.followers, options.seconds, options.pace))


if __name__ == "__main__":
    main()
