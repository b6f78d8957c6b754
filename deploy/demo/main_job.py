"""The main job as a user would do it: start the service, submit a recipe, follow it, download, load and compare.

Every step is the real one: the `dress` command, its REST service, a local Ray, and transformers in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "demo"
DRESS = Path(sys.executable).with_name("dress")
PROMPT = "Return a new"
READY_SECONDS = 120
STOP_SECONDS = 120
LARGEST_DIFFERENCE_FRACTION = 0.01
"""Between the perplexity reported and the one measured after loading; batches are summed in another order there."""

console = Console(stderr=True)


class Unwell(Exception):
    """A step of the demo failed; the message says which and where to look."""


def main() -> None:
    """Run the demo and end with status 1 if anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a smaller model and fewer samples")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25], help="shares of the channels to remove")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service is stopped then too
    try:
        run(options.short, options.ratios)
    except Unwell as error:
        console.print(f"[red]The demo failed:[/] {error}", highlight=False)
        sys.exit(1)


def run(short: bool, ratios: list[float]) -> None:
    """The whole story, in order."""
    model = small_llama(short)
    with tempfile.TemporaryDirectory(prefix="dress-demo-") as scratch, service(Path(scratch) / "state") as environment:
        for ratio in ratios:
            recipe = Path(scratch) / "recipe.yaml"
            recipe.write_text(yaml.safe_dump(filled(model, ratio, short)), encoding="utf-8")
            started = time.monotonic()
            job = json.loads(dress("submit", recipe, "--wait", "--json", environment=environment))
            console.print(f"The job {job['id']} took {time.monotonic() - started:.0f} s")
            folder = Path(scratch) / job["id"]
            dress("download", job["id"], folder, environment=environment)
            report(job["results"], loaded(folder / "model", job["results"]["recovered"]))


def small_llama(short: bool) -> Path:
    """The demo's model, trained now unless it is cached."""
    command = [sys.executable, HERE / "small_llama.py", *(["--short"] if short else [])]
    return Path(output_of(command, "training the small Llama").strip())


def filled(model: Path, ratio: float, short: bool) -> dict[str, Any]:
    """The recipe beside this file, with the model and the ratio put in."""
    recipe: dict[str, Any] = yaml.safe_load((HERE / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["model"]["source"] = str(model)
    recipe["method"]["ratio"] = ratio
    if short:
        recipe["data"] |= {"samples": 192, "sequence_length": 128}
        recipe["evaluate"]["windows"] = 32
    return recipe


@contextmanager
def service(state: Path) -> Iterator[dict[str, str]]:
    """`dress up` on a free port for as long as the block runs; gives the environment its clients need."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("DRESS_")}
    environment = outside | {"DRESS_STATE_DIR": str(state), "DRESS_MODEL_ROOTS": str(CACHE)}
    command = [DRESS, "up", "--port", "0", "--state", state]
    server = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        until_ready(server, state)
        yield environment
    except BaseException:
        show_logs(state)
        raise
    finally:
        stop(server)


def until_ready(server: subprocess.Popen[bytes], state: Path) -> None:
    """Return once the service has written its address, which it does when it serves."""
    deadline = time.monotonic() + READY_SECONDS
    while not (state / "url").exists():
        if server.poll() is not None:
            raise Unwell(f"`dress up` ended with status {server.returncode}")
        if time.monotonic() > deadline:
            raise Unwell(f"`dress up` is not ready after {READY_SECONDS} s")
        time.sleep(0.2)


def stop(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM ends `dress up` and all it started."""
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
        console.print(f"[yellow]`dress up` did not end within {STOP_SECONDS} s of SIGTERM and was killed[/]")


def show_logs(state: Path) -> None:
    """The ends of the service's logs, which vanish with its state folder."""
    for log in sorted((state / "logs").glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        console.print(f"[dim]{log.name} ends with[/]", *lines, sep="\n", markup=True, highlight=False)


def dress(*arguments: str | Path, environment: dict[str, str]) -> str:
    """What a `dress` command prints on stdout; its progress bar and tables go to the terminal."""
    return output_of([DRESS, *arguments], f"dress {arguments[0]}", environment)


def output_of(command: list[str | Path], what: str, environment: dict[str, str] | None = None) -> str:
    """The command's stdout; its stderr is the terminal's."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Unwell(f"{what} ended with status {done.returncode}")
    return done.stdout


def loaded(folder: Path, reported: dict[str, Any]) -> dict[str, Any]:
    """What a fresh process finds in the downloaded model.

    Raises:
        Unwell: it cannot be loaded, or is not the model that the job reported.
    """
    protocol = reported["perplexity_protocol"]["stdlib_docs"]
    size = [str(protocol[name]) for name in ("sequence_length", "windows")]
    command = [sys.executable, HERE / "fresh_load.py", folder, "stdlib_docs", *size, PROMPT]
    found: dict[str, Any] = json.loads(output_of(command, "loading the pruned model"))
    promised = reported["perplexity"]["stdlib_docs"]
    if abs(found["perplexity"] / promised - 1) > LARGEST_DIFFERENCE_FRACTION:
        raise Unwell(f"the job reported perplexity {promised:.4f}, the downloaded model has {found['perplexity']:.4f}")
    if found["parameters"] != reported["parameters"]:
        raise Unwell(f"the job reported {reported['parameters']} parameters, the model has {found['parameters']}")
    return found


def report(results: dict[str, Any], found: dict[str, Any]) -> None:
    """The table, what the fresh process measured, and a sentence of the pruned model's."""
    table = Table(title="DReSS on a small Llama")
    for heading in ("", "perplexity", "parameters", "bytes on disk", "tokens/s"):
        table.add_column(heading, justify="right" if heading else "left")
    for subject in ("dense", "pruned", "recovered"):
        figures = results[subject]
        speed = figures.get("speed", {}).get("generation_tokens_per_second")
        table.add_row(
            subject,
            f"{figures['perplexity']['stdlib_docs']:.2f}",
            f"{figures['parameters']:,}",
            f"{figures['bytes']:,}",
            f"{speed:,.0f}" if speed else "",
        )
    out = Console()
    out.print(table)
    out.print(f"Loaded in a fresh process, without remote code: perplexity {found['perplexity']:.2f}", highlight=False)
    out.print(f"The pruned model writes: {found['sentence']}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
