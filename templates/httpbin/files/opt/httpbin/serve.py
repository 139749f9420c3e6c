"""Serves httpbin on port 8080, a thread for each connection; nothing wakes up while nobody asks."""

import sys

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


HOST = "0.0.0.0"  # noqa: S104  the doors of a sandbox are the host's
make_server(HOST, 8080, app, threaded=True, request_handler=Handler).serve_forever(poll_interval=None)
