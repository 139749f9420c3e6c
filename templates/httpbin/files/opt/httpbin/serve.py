"""Serves httpbin on port 8080, a thread for each connection; nothing wakes up while nobody asks."""

import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, "/opt/httpbin/lib")

from httpbin import app
from werkzeug.serving import WSGIRequestHandler, make_server


class Handler(WSGIRequestHandler):
    """Speaks HTTP/1.1, so that clients can keep their connections, and logs nothing."""

    protocol_version = "HTTP/1.1"
    # A connection that says nothing for so long is closed: threads are not without number.
    timeout = 600

    def log(self, type: str, message: str, *args: object) -> None:
        """Say nothing: nobody reads it."""


class Renewed:
    """Has machines that were restored from the same one draw other random numbers than it, and each other."""

    GENERATION = Path("/run/atoll/generation")

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        self._inner = inner
        self._generation = ""

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        now = self.GENERATION.read_text()
        if now != self._generation:
            self._generation = now
            random.seed()
        return self._inner(environ, start_response)


HOST = "0.0.0.0"  # noqa: S104  the doors of a sandbox are the host's
make_server(HOST, 8080, Renewed(app), threaded=True, request_handler=Handler).serve_forever(
    poll_interval=None
)
