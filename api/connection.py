"""Where the server is and with which key to call it: the environment tells, else the state folder of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from api.client import Client

DEFAULT_STATE = "~/.dress"


class NoServer(Exception):  # an answer to the user, not a fault
    """It is not known where the server is, or with which key to call it. The message says what to do."""


def state_folder(given: Path | None = None) -> Path:
    """The state folder: the one given, `DRESS_STATE_DIR`, or `~/.dress`."""
    return Path(given or os.environ.get("DRESS_STATE_DIR") or DEFAULT_STATE).expanduser().absolute()


def url_file(state: Path) -> Path:
    """Where `dress up` writes its address."""
    return state / "url"


def key_file(state: Path) -> Path:
    """Where the API keeps this machine's key."""
    return state / "api-key"


def connect() -> Client:
    """A client for `DRESS_URL` and `DRESS_API_KEY`; what is not set is read from the state folder.

    Raises:
        NoServer: neither tells.
    """
    state = state_folder()
    url = os.environ.get("DRESS_URL") or _read(url_file(state))
    if not url:
        raise NoServer(f"no server is known: `dress up` has not started with {state}; start it, or set DRESS_URL")
    key = os.environ.get("DRESS_API_KEY") or _read(key_file(state))
    if not key:
        raise NoServer(f"no API key is known: there is none in {key_file(state)}; set DRESS_API_KEY")
    return Client(url, key)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise NoServer(f"{file} cannot be read: {error.strerror}") from error
