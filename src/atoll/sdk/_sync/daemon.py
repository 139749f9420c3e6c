# Generated from sdk/_async/daemon.py by scripts/unasync.py. DO NOT EDIT.
"""
Calls of a sandbox's daemon through the edge: Connect for commands and directories, HTTP for files.

Errors are mapped here; those above see the SDK's own only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from connectrpc.compression import Compression
from pyqwest import SyncClient

from atoll._gen.filesystem.filesystem_connect import FilesystemClientSync
from atoll._gen.process.process_connect import ProcessClientSync
from atoll.sdk import wire
from atoll.sdk._synchronization import (
    close_stream,
    http_client,
    is_loopback,
    rpc_transport,
)
from atoll.sdk.connection import Connection
from atoll.sdk.transport import (
    KEEPALIVE,
    MOST_ERROR_BYTES,
    MOST_MESSAGE_BYTES,
    RECENT_OUTPUT,
    error_from_response,
    map_connect_errors,
    map_http_errors,
    sandbox_headers,
)

M = TypeVar("M")
_NO_COMPRESSION: tuple[Compression, ...] = ()


class Daemon:
    """The daemon of one sandbox."""

    def __init__(self, connection: Connection, sandbox_id: str, access_token: str | None) -> None:
        self.connection = connection
        self.sandbox_id = sandbox_id
        self._token = access_token
        self._http = http_client(connection.api_url, connection.request_timeout)
        url, local = connection.api_url, is_loopback(connection.api_url)
        calls = SyncClient(rpc_transport(local=local, streams=False))
        streams = SyncClient(rpc_transport(local=local, streams=True))
        options: dict[str, Any] = {
            "accept_compression": _NO_COMPRESSION,
            "send_compression": None,
            "read_max_bytes": MOST_MESSAGE_BYTES,
        }
        self.process = ProcessClientSync(url, http_client=calls, **options)
        self.process_streams = ProcessClientSync(url, http_client=streams, **options)
        self.filesystem = FilesystemClientSync(url, http_client=calls, **options)
        self.filesystem_streams = FilesystemClientSync(url, http_client=streams, **options)

    def __repr__(self) -> str:
        return f"<Daemon of {self.sandbox_id} through {self.connection.api_url}>"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def unary(self, call: Any, request: Any, user: str | None = None) -> Any:
        """Make one call of the stubs and return its answer."""
        with map_connect_errors(self.connection.api_url):
            return call(
                request,
                headers=sandbox_headers(self.sandbox_id, self._token, user),
                timeout_ms=round(self.connection.request_timeout * 1000),
            )

    def stream(
        self,
        call: Any,
        request: Any,
        user: str | None = None,
        timeout: float | None = None,
        *,
        recent: bool = False,
    ) -> Iterator[Any]:
        """
        Make one call of the stubs and yield what comes.

        Args:
            timeout: seconds after which the daemon ends it; None or 0: never. It is the daemon that keeps it,
                because a timer here would belong to whichever task reads first.
            recent: whether to ask for output from before.
        """
        headers = sandbox_headers(self.sandbox_id, self._token, user)
        headers["Keepalive-Ping-Interval"] = str(KEEPALIVE)
        if timeout:
            headers["Connect-Timeout-Ms"] = str(wire.milliseconds(timeout))
        if recent:
            headers[RECENT_OUTPUT] = "true"
        with map_connect_errors(self.connection.api_url):
            messages = call(request, headers=headers)
            try:
                for message in messages:
                    yield message
            finally:
                close_stream(messages)

    def send_stream(self, call: Any, requests: Any) -> None:
        """Make one call of the stubs that takes many messages."""
        with map_connect_errors(self.connection.api_url):
            call(requests, headers=sandbox_headers(self.sandbox_id, self._token))

    @contextmanager
    def files(
        self, method: str, path: str, user: str | None, content: Any = None
    ) -> Iterator[httpx.Response]:
        """Move a file; the body of the answer is not read yet."""
        params = {"path": path} | ({"username": user} if user is not None else {})
        headers = sandbox_headers(self.sandbox_id, self._token, user)
        # Compressing costs more than loopback and gives nothing for what is compressed already.
        headers["Accept-Encoding"] = "identity"
        if content is not None:
            headers["Content-Type"] = "application/octet-stream"
        with map_http_errors(self.connection.api_url):
            with self._http.stream(
                method, "/files", params=params, headers=headers, content=content
            ) as response:
                if response.status_code >= 300:
                    raise error_from_response(response.status_code, beginning(response))
                yield response


def beginning(response: httpx.Response) -> bytes:
    """Read an error's body, as far as it may be long: a guest may have written it."""
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if len(body) > MOST_ERROR_BYTES:
            break
    return body[:MOST_ERROR_BYTES]
