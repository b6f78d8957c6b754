"""What every `dress` command starts from: where it prints, how it fails, and a connected client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from api import display
from api.client import Client
from api.connection import NoServer, connect
from api.failures import ApiError, Refused

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; everything else on stderr.")]
PIPE_WIDTH = 240


def err() -> Console:
    """For what is told beside the answer."""
    return Console(stderr=True, soft_wrap=True)


def out() -> Console:
    """For the answer."""
    console = Console(soft_wrap=True)
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
