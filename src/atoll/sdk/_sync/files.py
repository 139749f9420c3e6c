# Generated from sdk/_async/files.py by scripts/unasync.py. DO NOT EDIT.
"""Files and directories of a sandbox: streamed both ways, never held whole unless the caller wants it so."""

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Self, overload

import httpx
from protobuf import Oneof

from atoll._gen.filesystem import filesystem_pb as fs
from atoll.sdk import wire
from atoll.sdk._sync.daemon import Daemon
from atoll.sdk._synchronization import Data, chunks, close_stream, in_memory
from atoll.sdk.errors import AlreadyExistsError, ConnectionLostError, InternalError, NotFoundError
from atoll.sdk.models import FileEvent, FileInfo
from atoll.sdk.transport import check_text, map_http_errors


class Files:
    """
    Files of one sandbox.

    A path that does not begin with ``/`` is relative to the user's home.
    Every method takes ``user``: on whose behalf; the template's default user when not given.

    Every call raises InvalidArgumentError for a path that no file can have, UnauthenticatedError for a user
    that there is not, NotFoundError once the sandbox has ended, and what each of ``Sandbox`` raises.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def __repr__(self) -> str:
        return f"<Files of {self._daemon.sandbox_id}>"

    @overload
    def read(self, path: str, format: Literal["text"] = "text", *, user: str | None = None) -> str: ...

    @overload
    def read(self, path: str, format: Literal["bytes"], *, user: str | None = None) -> bytes: ...

    @overload
    def read(self, path: str, format: Literal["stream"], *, user: str | None = None) -> "FileStream": ...

    def read(
        self, path: str, format: Literal["text", "bytes", "stream"] = "text", *, user: str | None = None
    ) -> "str | bytes | FileStream":
        """
        Read a file.

        Args:
            format: "text" (UTF-8; what is not, becomes U+FFFD), "bytes", or "stream": an iterator of bytes.

        Raises:
            NotFoundError: no such file.
            InvalidArgumentError: it is a directory.
        """
        stack = ExitStack()
        response = stack.enter_context(self._daemon.files("GET", check_text("path", path), user))
        stream = FileStream(response, stack, self._daemon.connection.api_url)
        if format == "stream":
            return stream
        with stream:
            data = b"".join([piece for piece in stream])
        return data if format == "bytes" else data.decode("utf-8", "replace")

    def write(self, path: str, data: Data, *, user: str | None = None) -> FileInfo:
        """
        Write a file, over what was there; directories on the way are made.

        Args:
            data: str or bytes (the content), a Path or an open file of this machine, an iterator of bytes.

        Raises:
            InvalidArgumentError: the path is a directory.
            ResourceExhaustedError: the sandbox's disk is full.
        """
        ready = in_memory(data)
        content = chunks(data) if ready is None else ready
        with self._daemon.files("POST", check_text("path", path), user, content) as response:
            response.read()
        return self.stat(path, user=user)

    def list(self, path: str = ".", *, depth: int = 1, user: str | None = None) -> list[FileInfo]:
        """
        List a directory.

        Args:
            depth: how many levels, at least 1.

        Raises:
            NotFoundError: no such directory.
            InvalidArgumentError: it is none.
            ResourceExhaustedError: more than 50,000 entries.
        """
        request = fs.ListDirRequest(path=check_text("path", path), depth=depth)
        answer = self._daemon.unary(self._daemon.filesystem.list_dir, request, user)
        return [wire.file_info(entry) for entry in answer.entries]

    def stat(self, path: str, *, user: str | None = None) -> FileInfo:
        """
        Describe a file or directory.

        Raises:
            NotFoundError: there is none.
        """
        request = fs.StatRequest(path=check_text("path", path))
        return wire.file_info((self._daemon.unary(self._daemon.filesystem.stat, request, user)).entry)

    def exists(self, path: str, *, user: str | None = None) -> bool:
        """Tell whether something is there."""
        try:
            self.stat(path, user=user)
        except NotFoundError:
            return False
        return True

    def make_dir(self, path: str, *, user: str | None = None) -> bool:
        """
        Make a directory, and those on the way; False when it is there already.

        Raises:
            InvalidArgumentError: something else is there.
            ResourceExhaustedError: the sandbox's disk is full.
        """
        request = fs.MakeDirRequest(path=check_text("path", path))
        try:
            self._daemon.unary(self._daemon.filesystem.make_dir, request, user)
        except AlreadyExistsError:
            return False
        return True

    def rename(self, source: str, destination: str, *, user: str | None = None) -> FileInfo:
        """
        Move a file or directory; directories on the way are made, a file that is there is replaced.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: a directory is there, or the two are on different file systems.
        """
        request = fs.MoveRequest(
            source=check_text("source", source), destination=check_text("destination", destination)
        )
        return wire.file_info((self._daemon.unary(self._daemon.filesystem.move, request, user)).entry)

    def remove(self, path: str, *, user: str | None = None) -> None:
        """Remove a file, or a directory with all that is in it; a no-op when there is none."""
        request = fs.RemoveRequest(path=check_text("path", path))
        self._daemon.unary(self._daemon.filesystem.remove, request, user)

    def watch(
        self, path: str, *, recursive: bool = False, timeout: float | None = None, user: str | None = None
    ) -> "Watch":
        """
        Watch a directory; return when it is watched.

        Args:
            recursive: watch what is below, too.
            timeout: seconds after which the watch ends with DeadlineExceededError; None or 0: never.

        Raises:
            NotFoundError: no such directory.
            InvalidArgumentError: it is none, or on a network mount, where not all changes are seen.
            ResourceExhaustedError: the sandbox has as many watches as it may.
        """
        request = fs.WatchDirRequest(path=check_text("path", path), recursive=recursive)
        events = self._daemon.stream(self._daemon.filesystem_streams.watch_dir, request, user, timeout)
        try:
            first = events.__next__()
        except StopIteration:
            raise ConnectionLostError("The connection ended before the watch had begun.") from None
        match first.event:
            case Oneof(field="start"):
                return Watch(events, path)
            case _:
                close_stream(events)
                raise InternalError("The sandbox's daemon did not say that it watches.")


class FileStream:
    """
    A file that is being read: an iterator of bytes. The connection ends when it is read or closed.

    Attributes:
        size: of the file, in bytes; None: not known.
    """

    def __init__(self, response: httpx.Response, stack: ExitStack, address: str) -> None:
        self._response = response
        self._stack = stack
        self._address = address
        length = response.headers.get("content-length", "")
        self.size = int(length) if length.isdecimal() else None

    def __repr__(self) -> str:
        return f"<FileStream of {'?' if self.size is None else self.size} bytes>"

    def __iter__(self) -> Iterator[bytes]:
        """
        Yield the file's bytes.

        Raises:
            ConnectionLostError: the connection broke in the middle.
        """
        try:
            with map_http_errors(self._address):
                for piece in self._response.iter_bytes():
                    yield piece
        finally:
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._stack.close()


class Watch:
    """A directory that is being watched: an iterator of what happens in it, until it is closed."""

    def __init__(self, events: Iterator[Any], path: str) -> None:
        self._events = events
        self.path = path

    def __repr__(self) -> str:
        return f"<Watch of {self.path!r}>"

    def __iter__(self) -> Iterator[FileEvent]:
        """
        Yield what happens, as it happens.

        Raises:
            DeadlineExceededError: its timeout ended it.
            ResourceExhaustedError: so much happened at once that some of it is lost.
            ConnectionLostError: the connection broke.
        """
        for message in self._events:
            match message.event:
                case Oneof(field="filesystem", value=event):
                    yield wire.file_event(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching. Only for who reads."""
        close_stream(self._events)
