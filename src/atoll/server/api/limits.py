"""How much a caller of the API may send, and how long an answer may take."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict


@dataclass(frozen=True, kw_only=True)
class ApiLimits:
    """
    Bounds of one request.

    Attributes:
        body_bytes: the longest request body. The largest honest one is a create with its environment and
            metadata, some tens of kilobytes; a longer one is refused while it is read (413).
        header_bytes: names and values of all request headers together (431). The edge refuses longer ones
            before; this is the wall behind it. Clients send about 1 KB.
        request_seconds: the longest that a call may take (504). Above all limits of the steps of a create,
            so that the step that hangs is named, and not the call.
        rate_requests: requests of one API key in a window (429); 0: as many as come. As E2B publishes it: far
            above what programs need that do not run wild. Lower it where teams share a server.
        rate_window_seconds: how long such a window is; it begins with its first request.
    """

    body_bytes: int = 1024 * 1024
    header_bytes: int = 64 * 1024
    request_seconds: float = 120.0
    rate_requests: int = 20_000
    rate_window_seconds: float = 30.0


class ServerOptions(TypedDict):
    """Keyword arguments of ``uvicorn.Config`` that every server of ours takes."""

    http: Literal["httptools"]
    ws: Literal["none"]
    lifespan: Literal["off"]
    access_log: bool
    log_config: dict[str, Any] | None
    proxy_headers: bool
    server_header: bool
    backlog: int
    limit_concurrency: int
    timeout_keep_alive: int
    timeout_graceful_shutdown: int


def server_options() -> ServerOptions:
    """
    Return what ``uvicorn.Config`` is to be given besides the app and its socket.

    The edge keeps its connections to the server for a while: they must live longer here than there, or a
    request meets a connection that is just being closed.
    """
    return {
        "http": "httptools",
        "ws": "none",  # no dialect speaks WebSocket
        "lifespan": "off",  # control is opened and closed by main, not by an app
        "access_log": False,  # the gate logs
        "log_config": None,
        "proxy_headers": False,  # nothing is decided by the caller's address
        "server_header": False,
        "backlog": 1024,
        # Connections and requests together; above it uvicorn answers 503 without asking us.
        "limit_concurrency": 2048,
        "timeout_keep_alive": 620,
        "timeout_graceful_shutdown": 10,
    }
