"""What every `dress` command starts from: where it prints, how it fails, and a connected client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from api import display
from api.client import Client
from api.connection import NoServer, connect
from api.failures import ApiError, Refused

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a job or a search.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 0 only if it succeeded.")]
LabelsOption = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.")]
PriorityOption = Annotated[int, typer.Option(help="Higher runs sooner.")]
LimitOption = Annotated[int, typer.Option(min=1, max=200, help="As many at most.")]
FaultOption = Annotated[
    str | None, typer.Option(help="Only what failed by such a fault: recipe, out_of_memory, transient or deadline.")
]
CodeOption = Annotated[str | None, typer.Option(help="Only what failed with this error, such as worker_lost.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; everything else on stderr.")]
PIPE_WIDTH = 240
INTERRUPTED = 130


def err() -> Console:
    """For what is told beside the answer."""
    return _console(stderr=True)


def out() -> Console:
    """For the answer."""
    return _console()


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, soft_wrap=True)
    if not console.is_terminal:  # whoever reads a pipe wants whole lines
        console.width = PIPE_WIDTH
    return console


@contextmanager
def server() -> Iterator[Client]:
    """A connected client; what may be expected to go wrong becomes a line on stderr and exit status 1."""
    try:
        with connect() as client:
            yield client
    except Refused as refusal:
        display.show_refusal(err(), refusal)
        raise typer.Exit(1) from refusal
    except (ApiError, NoServer, OSError) as error:
        fail(str(error))


def fail(message: str, status: int = 1) -> NoReturn:
    """End the command with a line on stderr."""
    err().print(f"[red]dress: {escape(message)}[/]", highlight=False)
    raise typer.Exit(status)


def labels_of(pairs: Iterable[str] | None) -> dict[str, str]:
    """Labels as they were given, each as KEY=VALUE."""
    labels = {}
    for pair in pairs or ():
        name, given, value = pair.partition("=")
        if not given or not name:
            fail(f"--label {pair}: write KEY=VALUE", status=2)
        labels[name] = value
    return labels


def print_json(answer: BaseModel) -> None:
    """The one object on stdout."""
    typer.echo(answer.model_dump_json())
