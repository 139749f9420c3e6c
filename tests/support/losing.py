"""Stands between a client and a server, and loses answers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

# The request arrives, and its answer does not; neither arrives; anything else is an answer in its place.
LOST, CUT = "lost", "cut"
# What goes with connections that are not ours.
_HOP = {"connection", "transfer-encoding", "content-length", "host", "date", "server"}


@dataclass
class Losing:
    """
    Where it listens, what happens to the next requests, and what arrived.

    Attributes:
        script: for each request that changes something; what comes after it passes.
        names: the Idempotency-Key of each of them.
    """

    url: str
    script: list[str | tuple[int, dict[str, str]]] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)


@contextmanager
def losing(server_url: str) -> Iterator[Losing]:
    """Stand there until left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            step: str | tuple[int, dict[str, str]] | None = None
            if self.command == "POST":
                made.names.append(self.headers.get("Idempotency-Key"))
                step = made.script.pop(0) if made.script else None
            if isinstance(step, tuple):
                self._answer(step[0], step[1], b'{"code": "unavailable", "message": "in its place"}')
                return
            if step == CUT:
                self.close_connection = True
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            got = httpx.request(
                self.command, server_url + self.path, headers=headers, content=body, timeout=30
            )
            if step == LOST:
                self.close_connection = True
                return
            kept = {name: value for name, value in got.headers.items() if name.lower() not in _HOP}
            self._answer(got.status_code, kept, got.content)

        do_GET = do_POST = do_DELETE = _pass  # noqa: N815  the base class's names

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Losing(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="losing")
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()
