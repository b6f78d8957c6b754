"""An S3-compatible server in a thread of the test process (moto's), with a log of requests and faults on demand."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import httpx2
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "artifacts"

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1"}
"""What a client needs besides `AWS_ENDPOINT_URL`."""


class Reset(Exception):
    """Raised by a fault: the connection is reset without an answer."""


class Unavailable(Exception):
    """Raised by a fault: the answer is 503."""


class Forbidden(Exception):
    """Raised by a fault: the answer is 403."""


class CutShort(Exception):
    """Raised by a fault: the connection is reset after half of the answer's body."""


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    """With the query."""
    byte_range: str | None
    authorization: str | None


Fault = Callable[[str, str], None]
"""Called with method and path before a request is served; may raise one of the above, or take its time."""


class ObjectServer:
    """Serves one bucket. Requests change the store one at a time, as a real server's conditional writes do."""

    bucket = BUCKET

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.fault: Fault | None = None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._one_at_a_time = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Silent)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        # moto loads its service with the first request, which takes its time on a busy machine.
        assert httpx2.put(f"{self.endpoint}/{BUCKET}", trust_env=False, timeout=120).status_code == 200

    @property
    def environment(self) -> dict[str, str]:
        """Where it is, in the variables that clients read."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def asked(self, method: str, part: str) -> list[Asked]:
        """The requests whose path contains this, in the order in which they came."""
        return [asked for asked in self.requests if asked.method == method and part in asked.path]

    def settle(self) -> None:
        """Forget log and faults."""
        self.requests.clear()
        self.fault = None

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = environ["QUERY_STRING"]
        asked = f"{path}?{query}" if query else path
        told = environ.get("HTTP_RANGE"), environ.get("HTTP_AUTHORIZATION")
        self.requests.append(Asked(method, asked, *told))
        try:
            if self.fault is not None:
                self.fault(method, asked)
        except Reset:
            _reset(environ)
            return []
        except (Unavailable, Forbidden) as refusal:
            status = "503 Slow Down" if isinstance(refusal, Unavailable) else "403 Forbidden"
            start_response(status, [("Content-Length", "0")])
            return []
        except CutShort:
            return self._half(environ, start_response)
        with self._one_at_a_time:
            return list(self._moto(environ, start_response))

    def _half(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        with self._one_at_a_time:
            body = b"".join(self._moto(environ, start_response))
        yield body[: len(body) // 2]
        _reset(environ)


class _Silent(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Tell nobody."""


def _reset(environ: dict[str, Any]) -> None:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    connection.close()


class Times:
    """A fault that strikes so many of the requests that match, and counts."""

    def __init__(self, count: int, kind: type[Exception], method: str, part: str) -> None:
        self.left, self._kind, self._method, self._part = count, kind, method, part

    def __call__(self, method: str, path: str) -> None:
        if method == self._method and self._part in path and self.left > 0:
            self.left -= 1
            raise self._kind
