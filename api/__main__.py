"""`dress api`: serves the REST interface until it is told to stop."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from api.app import create_app
from api.dependencies import Wiring
from service.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
GRACE_SECONDS = 10


class Server(uvicorn.Server):
    """A server whose shutdown first ends the open streams, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        wiring = app.state.wiring
        assert isinstance(wiring, Wiring)  # noqa: S101  create_app sets it
        self._tail = wiring.tail

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams and waits, let other requests finish, stop."""
        self._tail.close()
        await super().shutdown(sockets)


def main() -> int:
    """Serve; the exit status."""
    wanted = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings.from_environment()
    except ValidationError as error:
        for each in error.errors():
            print(f"dress api: DRESS_{str(each['loc'][0]).upper()}: {each['msg']}", file=sys.stderr)
        return 2
    hosts = {wanted.host.lower(), *LOOPBACK_NAMES} if _is_loopback(wanted.host) else None
    app = create_app(settings, hosts)
    config = uvicorn.Config(
        app,
        host=wanted.host,
        port=wanted.port,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=30,
    )
    # A socket that `dress up` bound and keeps: while this process is restarted, callers wait instead of being refused.
    sockets = [socket.socket(fileno=wanted.fd)] if wanted.fd is not None else None
    Server(config, app).run(sockets=sockets)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dress api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (default: 8000)")
    parser.add_argument("--fd", type=int, help="file descriptor of a listening socket, instead of host and port")
    return parser.parse_args()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


if __name__ == "__main__":
    sys.exit(main())
