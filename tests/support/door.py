"""Requests by hand to the one listening port, for what no honest client sends."""

import json
import select
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from e2b import Sandbox


@dataclass(frozen=True)
class Door:
    """Where a home listens, and a key."""

    host: str
    port: int
    key: str

    @classmethod
    def of(cls, client_options: dict[str, Any]) -> "Door":
        """Find the door that E2B's client is told of."""
        url = urlsplit(client_options["api_url"])
        assert url.hostname is not None
        assert url.port is not None
        return cls(url.hostname, url.port, client_options["api_key"])

    def connect(self, timeout: float = 30) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((self.host, self.port), timeout=timeout)

    def say(self, *pieces: bytes, timeout: float = 30, half: bool = False) -> bytes:
        """Send bytes, and return all that comes until the other side closes or is silent for so long."""
        with self.connect(timeout) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
                if half:
                    connection.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            return read_all(connection)

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> bytes:
        """Write a request to the API."""
        told = {"Host": "x", "X-API-Key": self.key, "Content-Type": "application/json"}
        told |= {"Content-Length": str(len(body))} | (headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body

    def create(self, **changes: Any) -> bytes:
        """Write the request for a sandbox."""
        body = {"templateID": "minimal", "timeout": 120, **changes}
        return self.request("POST", "/v2/sandboxes", body=json.dumps(body).encode())


def to_daemon(sandbox: Sandbox, **headers: str) -> dict[str, str]:
    """Return the headers of a request to a sandbox's daemon."""
    token = sandbox.connection_config.sandbox_headers["X-Access-Token"]
    return {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": token,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }


def read_all(connection: socket.socket) -> bytes:
    """Read until the end, a reset, or the connection's timeout."""
    got = bytearray()
    try:
        while piece := connection.recv(65536):
            got += piece
    except (TimeoutError, ConnectionError):
        pass
    return bytes(got)


def is_answered(connection: socket.socket) -> bool:
    """Tell whether something came that nobody has read."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
