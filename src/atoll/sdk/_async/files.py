"""Files and directories of a sandbox: streamed both ways, never held whole unless the caller wants it so."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, Self, overload

import httpx
from protobuf import Oneof

from atoll._gen.filesystem import filesystem_pb as fs
from atoll.sdk import wire
from atoll.sdk._async.daemon import AsyncDaemon
from atoll.sdk._synchronization import AsyncData, async_chunks, async_close_stream, in_memory
from atoll.sdk.errors import AlreadyExistsError, ConnectionLostError, InternalError, NotFoundError
from atoll.sdk.models import FileEvent, FileInfo
from atoll.sdk.transport import check_text, map_http_errors


class AsyncFiles:
    """
    Files of one sandbox.

    A path that does not begin with ``/`` is relative to the user's home.
    Every method takes ``user``: on whose behalf; the template's default user when not given.

    Every call raises InvalidArgumentError for a path that no file can have, UnauthenticatedError for a user
    that there is not, NotFoundError once the sandbox has ended, and what each of ``AsyncSandbox`` raises.
    """

    def __init__(self, daemon: AsyncDaemon) -> None:
        self._daemon = daemon

    def __repr__(self) -> str:
        return f"<AsyncFiles of {self._daemon.sandbox_id}>"

    @overload
    async def read(self, path: str, format: Literal["text"] = "text", *, user: str | None = None) -> str: ...

    @overload
    async def read(self, path: str, format: Literal["bytes"], *, user: str | None = None) -> bytes: ...

    @overload
    async def read(
        self, path: str, format: Literal["stream"], *, user: str | None = None
    ) -> "AsyncFileStream": ...

    async def read(
        self, path: str, format: Literal["text", "bytes", "stream"] = "text", *, user: str | None = None
    ) -> "str | bytes | AsyncFileStream":
        """
        Read a file.

        Args:
            format: "text" (UTF-8; what is not, becomes U+FFFD), "bytes", or "stream": an iterator of bytes.

        Raises:
            NotFoundError: no such file.
            InvalidArgumentError: it is a directory.
        """
        stack = AsyncExitStack()
        response = await stack.enter_async_context(self._daemon.files("GET", check_text("path", path), user))
        stream = AsyncFileStream(response, stack, self._daemon.connection.api_url)
        if format == "stream":
            return stream
        async with stream:
            data = b"".join([piece async for piece in stream])
        return data if format == "bytes" else data.decode("utf-8", "replace")

    async def write(self, path: str, data: AsyncData, *, user: str | None = None) -> FileInfo:
        """
        Write a file, over what was there; directories on the way are made.

        Args:
            data: str or bytes (the content), a Path or an open file of this machine, an iterator of bytes.

        Raises:
            InvalidArgumentError: the path is a directory.
            ResourceExhaustedError: the sandbox's disk is full.
        """
        ready = in_memory(data)
        content = async_chunks(data) if ready is None else ready
        async with self._daemon.files("POST", check_text("path", path), user, content) as response:
            await response.aread()
        return await self.stat(path, user=user)

    async def list(self, path: str = ".", *, depth: int = 1, user: str | None = None) -> list[FileInfo]:
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
        answer = await self._daemon.unary(self._daemon.filesystem.list_dir, request, user)
        return [wire.file_info(entry) for entry in answer.entries]

    async def stat(self, path: str, *, user: str | None = None) -> FileInfo:
        """
        Describe a file or directory.

        Raises:
            NotFoundError: there is none.
        """
        request = fs.StatRequest(path=check_text("path", path))
        return wire.file_info((await self._daemon.unary(self._daemon.filesystem.stat, request, user)).entry)

    async def exists(self, path: str, *, user: str | None = None) -> bool:
        """Tell whether something is there."""
        try:
            await self.stat(path, user=user)
        except NotFoundError:
            return False
        return True

    async def make_dir(self, path: str, *, user: str | None = None) -> bool:
        """
        Make a directory, and those on the way; False when it is there already.

        Raises:
            InvalidArgumentError: something else is there.
            ResourceExhaustedError: the sandbox's disk is full.
        """
        request = fs.MakeDirRequest(path=check_text("path", path))
        try:
            await self._daemon.unary(self._daemon.filesystem.make_dir, request, user)
        except AlreadyExistsError:
            return False
        return True

    async def rename(self, source: str, destination: str, *, user: str | None = None) -> FileInfo:
        """
        Move a file or directory; directories on the way are made, a file that is there is replaced.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: a directory is there, or the two are on different file systems.
        """
        request = fs.MoveRequest(
            source=check_text("source", source), destination=check_text("destination", destination)
        )
        return wire.file_info((await self._daemon.unary(self._daemon.filesystem.move, request, user)).entry)

    async def remove(self, path: str, *, user: str | None = None) -> None:
        """Remove a file, or a directory with all that is in it; a no-op when there is none."""
        request = fs.RemoveRequest(path=check_text("path", path))
        await self._daemon.unary(self._daemon.filesystem.remove, request, user)

    async def watch(
        self, path: str, *, recursive: bool = False, timeout: float | None = None, user: str | None = None
    ) -> "AsyncWatch":
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
            first = await events.__anext__()
        except StopAsyncIteration:
            raise ConnectionLostError("The connection ended before the watch had begun.") from None
        match first.event:
            case Oneof(field="start"):
                return AsyncWatch(events, path)
            case _:
                await async_close_stream(events)
                raise InternalError("The sandbox's daemon did not say that it watches.")


class AsyncFileStream:
    """
    A file that is being read: an iterator of bytes. The connection ends when it is read or closed.

    Attributes:
        size: of the file, in bytes; None: not known.
    """

    def __init__(self, response: httpx.Response, stack: AsyncExitStack, address: str) -> None:
        self._response = response
        self._stack = stack
        self._address = address
        length = response.headers.get("content-length", "")
        self.size = int(length) if length.isdecimal() else None

    def __repr__(self) -> str:
        return f"<AsyncFileStream of {'?' if self.size is None else self.size} bytes>"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """
        Yield the file's bytes.

        Raises:
            ConnectionLostError: the connection broke in the middle.
        """
        try:
            with map_http_errors(self._address):
                async for piece in self._response.aiter_bytes():
                    yield piece
        finally:
            await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop reading."""
        await self._stack.aclose()


class AsyncWatch:
    """A directory that is being watched: an iterator of what happens in it, until it is closed."""

    def __init__(self, events: AsyncIterator[Any], path: str) -> None:
        self._events = events
        self.path = path

    def __repr__(self) -> str:
        return f"<AsyncWatch of {self.path!r}>"

    async def __aiter__(self) -> AsyncIterator[FileEvent]:
        """
        Yield what happens, as it happens.

        Raises:
            DeadlineExceededError: its timeout ended it.
            ResourceExhaustedError: so much happened at once that some of it is lost.
            ConnectionLostError: the connection broke.
        """
        async for message in self._events:
            match message.event:
                case Oneof(field="filesystem", value=event):
                    yield wire.file_event(event)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop watching. Only for who reads."""
        await async_close_stream(self._events)
