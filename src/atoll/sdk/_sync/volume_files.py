# Generated from sdk/_async/volume_files.py by scripts/unasync.py. DO NOT EDIT.
"""Files and directories of a volume, without a sandbox: streamed both ways, through the edge."""

import builtins
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, overload

import httpx

from atoll.sdk import stored
from atoll.sdk._sync.daemon import beginning
from atoll.sdk._sync.files import FileStream
from atoll.sdk._synchronization import Data, chunks, http_client, in_memory
from atoll.sdk.connection import Connection
from atoll.sdk.errors import AlreadyExistsError, InternalError, NotFoundError
from atoll.sdk.models import FileInfo, FileType
from atoll.sdk.transport import check_text, error_from_response, map_http_errors


class VolumeFiles:
    """
    Files of one volume.

    Paths begin at the volume's root, with or without a slash, and never lead out of it, whatever links are
    there. What is made belongs to the templates' user (1000), unless a sandbox changes that.

    Every method raises InvalidArgumentError for a path with ``..`` or NUL in it, or longer than 4,096 bytes,
    and NotFoundError when the volume was deleted.
    """

    def __init__(self, connection: Connection, volume_id: str, token: str) -> None:
        self._connection = connection
        self._volume_id = volume_id
        self._http = http_client(connection.api_url, connection.request_timeout)
        self._http.headers["Authorization"] = f"Bearer {token}"
        # What is compressed already would not get smaller.
        self._http.headers["Accept-Encoding"] = "identity"

    def __repr__(self) -> str:
        return f"<VolumeFiles of {self._volume_id}>"

    @overload
    def read(self, path: str, format: Literal["text"] = "text") -> str: ...

    @overload
    def read(self, path: str, format: Literal["bytes"]) -> bytes: ...

    @overload
    def read(self, path: str, format: Literal["stream"]) -> FileStream: ...

    def read(
        self, path: str, format: Literal["text", "bytes", "stream"] = "text"
    ) -> str | bytes | FileStream:
        """
        Read a file.

        Args:
            format: "text" (UTF-8; what is not, becomes U+FFFD), "bytes", or "stream": an iterator of bytes.

        Raises:
            NotFoundError: no such file.
            InvalidArgumentError: it is a directory, a pipe, a device or a link that leads out of the volume.
        """
        stack = ExitStack()
        response = stack.enter_context(self._call("GET", "file", path))
        stream = FileStream(response, stack, self._connection.api_url)
        if format == "stream":
            return stream
        with stream:
            data = b"".join([piece for piece in stream])
        return data if format == "bytes" else data.decode("utf-8", "replace")

    def write(self, path: str, data: Data, *, mode: int | None = None) -> FileInfo:
        """
        Write a file in one step, in place of what was there; directories on the way are made.

        Args:
            data: str or bytes (the content), a Path or an open file of this machine, an iterator of bytes.
            mode: permission bits; None: 0644.

        Raises:
            InvalidArgumentError: the path is a directory.
            ResourceExhaustedError: the volume is full; what was there before is there still.
        """
        ready = in_memory(data)
        content = chunks(data) if ready is None else ready
        return stored.content(self._answer("PUT", "file", path, _wish(mode, force=True), content))

    def list(self, path: str = "/", *, depth: int = 1) -> builtins.list[FileInfo]:
        """
        List a directory, in the order of paths.

        Args:
            depth: how many levels, at most 64.

        Raises:
            NotFoundError: no such directory.
            ResourceExhaustedError: more than 10,000 entries.
        """
        return stored.contents(self._answer("GET", "dir", path, {"depth": depth}))

    def stat(self, path: str) -> FileInfo:
        """
        Describe a file, a directory or a link.

        Raises:
            NotFoundError: there is none.
        """
        return stored.content(self._answer("GET", "path", path))

    def exists(self, path: str) -> bool:
        """Tell whether something is there."""
        try:
            self.stat(path)
        except NotFoundError:
            return False
        return True

    def make_dir(self, path: str, *, mode: int | None = None) -> bool:
        """
        Make a directory, and those on the way; False when it is there already.

        Args:
            mode: permission bits; None: 0755.

        Raises:
            AlreadyExistsError: something else is there.
        """
        try:
            self._answer("POST", "dir", path, _wish(mode, force=False))
        except NotFoundError:
            self._answer("POST", "dir", path, _wish(mode, force=True))
        except AlreadyExistsError:
            if (self.stat(path)).type is not FileType.DIRECTORY:
                raise
            return False
        return True

    def change(
        self, path: str, *, mode: int | None = None, uid: int | None = None, gid: int | None = None
    ) -> FileInfo:
        """
        Change the mode or the owner of a file or a directory; of a link, the link's own owner.

        Args:
            path: of what.
            mode: permission bits, 0o7777 at most; None: as it is. A link has none.
            uid: its owner; None: as it is.
            gid: its group; None: as it is.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: a number that is none of these.
        """
        wished = {"mode": mode, "uid": uid, "gid": gid}
        body = json.dumps({name: number for name, number in wished.items() if number is not None}).encode()
        return stored.content(self._answer("PATCH", "path", path, content=body))

    def remove(self, path: str) -> None:
        """Remove a file or a link, or a directory with all that is in it; a no-op when there is none."""
        try:
            self._answer("DELETE", "path", path)
        except NotFoundError:
            return

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _answer(
        self,
        method: str,
        what: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        content: Any = None,
    ) -> Any:
        with self._call(method, what, path, params, content) as response:
            response.read()
        if response.status_code == 204:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise InternalError("The server's answer about a volume is not JSON.") from error

    @contextmanager
    def _call(
        self,
        method: str,
        what: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        content: Any = None,
    ) -> Iterator[httpx.Response]:
        """Make one call; the body of the answer is not read yet."""
        address = f"/volumecontent/{self._volume_id}/{what}"
        query = {**(params or {}), "path": check_text("path", path)}
        headers = {} if content is None else {"Content-Type": "application/octet-stream"}
        with map_http_errors(self._connection.api_url):
            with self._http.stream(
                method, address, params=query, headers=headers, content=content
            ) as response:
                if response.status_code >= 300:
                    raise error_from_response(response.status_code, beginning(response))
                yield response


def _wish(mode: int | None, *, force: bool) -> dict[str, Any]:
    return {"force": str(force).lower()} | ({} if mode is None else {"mode": mode})
