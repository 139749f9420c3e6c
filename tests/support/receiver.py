"""A receiver of webhooks on a real port: good, failing, slow, redirecting and hostile ones, by the path."""

import base64
import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request as it came; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """Check the signature as E2B's documentation tells receivers to."""
        digest = hashlib.sha256((secret + self.body.decode()).encode()).digest()
        expected = base64.b64encode(digest).decode().replace("+", "-").replace("/", "_").rstrip("=")
        return self.headers["e2b-signature"] == expected


@dataclass
class Receiver:
    """Where it listens, and what came."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    # Set: requests to /slow are answered.
    release: threading.Event = field(default_factory=threading.Event)
    # How many bytes hostile answers got rid of, by path.
    poured: dict[str, int] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def at(self, path: str) -> list[Received]:
        with self.changed:
            return [one for one in self.received if one.path == path]

    def wait(self, path: str, number: int, timeout: float = 20) -> list[Received]:
        """Wait until so many requests came to a path."""
        self.wait_until(lambda: len(self.at(path)) >= number, timeout)
        return self.at(path)

    def wait_until(self, true: Callable[[], bool], timeout: float = 20) -> None:
        with self.changed:
            assert self.changed.wait_for(true, timeout), [one.path for one in self.received]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_POST(self) -> None:
        made = self.server.made
        length = int(self.headers.get("content-length", "0"))
        body = self.rfile.read(length)
        if len(body) < length:
            # Its sender was killed in the middle: half a request is none.
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        with made.changed:
            made.received.append(Received(self.path, headers, body))
            number = sum(one.path == self.path for one in made.received)
            made.changed.notify_all()
        self.close_connection = True
        with suppress(OSError):
            self._answer(self.path.split("?")[0], number)

    def _answer(self, path: str, number: int) -> None:
        if path.startswith("/status/"):
            self._head(int(path.removeprefix("/status/")))
        elif path.startswith("/flaky/"):
            self._head(200 if number > int(path.removeprefix("/flaky/")) else 503)
        elif path.startswith("/slow"):
            self.server.made.release.wait(60)
            self._head(200)
        elif path == "/redirect":
            self._head(307, f"Location: {self.server.made.url('/trap')}\r\n")
        elif path in POURS:
            self._pour(path, *POURS[path])
        elif path == "/garbage":
            self.wfile.write(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        elif path != "/close":
            self._head(200)

    def _head(self, status: int, more: str = "") -> None:
        self.wfile.write(f"HTTP/1.1 {status} X\r\n{more}Content-Length: 0\r\n\r\n".encode())

    def _pour(self, path: str, first: bytes, again: bytes) -> None:
        poured = self.server.made.poured
        self.wfile.write(first)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            self.wfile.write(again)
            poured[path] = poured.get(path, 0) + len(again)

    def log_message(self, format: str, *args: object) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    made: Receiver
    tls: ssl.SSLContext | None

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls is None:
            return connection, address
        # A failed handshake is an OSError: the server then waits for the next connection.
        return self.tls.wrap_socket(connection, server_side=True), address


@contextmanager
def receiver(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Listen until left."""
    made = Receiver()
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.made, server.tls = made, tls
        made.port = server.server_address[1]
        serve = partial(server.serve_forever, poll_interval=0.05)
        thread = threading.Thread(target=serve, name="receiver")
        thread.start()
        try:
            yield made
        finally:
            made.release.set()
            server.shutdown()
            thread.join(30)


# What is sent first, and what is then sent for ever.
POURS = {
    "/huge": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", b"x" * 65536),
    "/huge-head": (b"HTTP/1.1 200 OK\r\n", b"X-Again: " + b"x" * 1000 + b"\r\n"),
    "/informational": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
}
