"""
A command that runs: its output as it comes, its input, its end.

Output is read from the connection while somebody iterates or waits, and not before: who does not
read holds the command back once the buffers between are full, and nothing piles up here.
"""

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

from protobuf import Oneof

from atoll._gen.process import process_pb as ps
from atoll.sdk import wire
from atoll.sdk._async.daemon import AsyncDaemon
from atoll.sdk._synchronization import (
    AsyncData,
    async_call_back,
    async_chunks,
    async_close_stream,
)
from atoll.sdk.errors import ConnectionLostError, InternalError, NotFoundError
from atoll.sdk.messages import input_pieces, process_input, selector
from atoll.sdk.models import Output, Stream
from atoll.sdk.output import Collector
from atoll.sdk.results import CommandResult


class AsyncCommandHandle:
    """
    A command that runs in a sandbox, seen through one connection.

    Iterate over it for its output as bytes, or ``wait`` for its end.
    Leaving it, by ``disconnect`` or as a context manager, does not end the command.
    """

    def __init__(
        self, daemon: AsyncDaemon, events: AsyncIterator[Any], pid: int, *, pty: bool = False
    ) -> None:
        self._daemon = daemon
        self._events = events
        self._pty = pty
        self._exit_code: int | None = None
        self.pid = pid

    def __repr__(self) -> str:
        status = "running" if self._exit_code is None else f"ended with {self._exit_code}"
        return f"<AsyncCommandHandle {self.pid} in {self._daemon.sandbox_id}, {status}>"

    @property
    def exit_code(self) -> int | None:
        """The command's code, 128 + n when signal n ended it; None while its end has not been read."""
        return self._exit_code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def __aiter__(self) -> AsyncIterator[Output]:
        """
        Yield the output, until the command ends.

        Raises:
            DeadlineExceededError: its timeout ended it.
            ConnectionLostError: the connection broke; the command may run on.
            NotFoundError: its sandbox ended.
        """
        async for message in self._events:
            match message.event and message.event.event:
                case Oneof(field="data", value=data):
                    if (piece := wire.output(data)) is not None:
                        yield piece
                case Oneof(field="end", value=end):
                    self._exit_code = wire.exit_code(end)
                    await self.disconnect()
                    return
        if self._exit_code is None:
            raise ConnectionLostError(
                "The connection ended before the command did.",
                resolution="It may still run: look with commands.list(), attach with commands.connect(pid).",
            )

    async def wait(
        self,
        *,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        check: bool = False,
    ) -> CommandResult:
        """
        Read the output to its end and return how the command ended.

        Args:
            on_stdout: called with the output as text, piece by piece; may be a coroutine function.
            on_stderr: the same for the error output.
            check: raise when the code is not 0.

        Raises:
            CommandFailedError: its code is not 0, and ``check`` was asked for.
            DeadlineExceededError: its timeout ended it.
            ConnectionLostError: the connection broke; the command may run on.
        """
        kept = Collector()
        async for piece in self:
            text = kept.add(piece)
            await async_call_back(on_stderr if piece.stream is Stream.STDERR else on_stdout, text)
        await async_call_back(on_stdout, kept.rest(Stream.STDOUT))
        await async_call_back(on_stderr, kept.rest(Stream.STDERR))
        assert self._exit_code is not None
        result = kept.result(self._exit_code)
        return result.check() if check else result

    async def kill(self) -> bool:
        """End the command with all its descendants; False when it had ended before."""
        return await kill(self._daemon, self.pid)

    async def send_stdin(self, data: AsyncData) -> None:
        """
        Write to the command's input: str, bytes, a Path, a file or an iterator of bytes.

        Raises:
            NotFoundError: it has ended.
            InternalError: its input is closed, or it was started without one.
        """
        async for piece in async_chunks(data):
            for part in input_pieces(piece):
                request = ps.SendInputRequest(
                    process=selector(self.pid), input=process_input(part, pty=self._pty)
                )
                await self._daemon.unary(self._daemon.process.send_input, request)

    async def close_stdin(self) -> None:
        """
        End the command's input; a no-op when it is closed.

        Raises:
            NotFoundError: the command has ended.
            InternalError: it is on a terminal: send it Ctrl+D, a byte 4.
        """
        await self._daemon.unary(
            self._daemon.process.close_stdin, ps.CloseStdinRequest(process=selector(self.pid))
        )

    async def disconnect(self) -> None:
        """Stop reading; the command runs on. Only for who reads: from elsewhere, ``kill``."""
        await async_close_stream(self._events)


async def kill(daemon: AsyncDaemon, pid: int) -> bool:
    """End a command with all its descendants; False when there is none."""
    request = ps.SendSignalRequest(process=selector(pid), signal=ps.Signal.SIGKILL)
    try:
        await daemon.unary(daemon.process.send_signal, request)
    except NotFoundError:
        return False
    return True


async def open_handle(
    daemon: AsyncDaemon, events: AsyncIterator[Any], *, pty: bool = False
) -> AsyncCommandHandle:
    """Read the first message of a command's stream, which names its pid."""
    try:
        message = await events.__anext__()
    except StopAsyncIteration:
        raise ConnectionLostError("The connection ended before the command had started.") from None
    match message.event and message.event.event:
        case Oneof(field="start", value=start):
            return AsyncCommandHandle(daemon, events, start.pid, pty=pty)
        case _:
            await async_close_stream(events)
            raise InternalError("The sandbox's daemon did not say which process it started.")
