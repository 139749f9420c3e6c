# Generated from sdk/_async/handle.py by scripts/unasync.py. DO NOT EDIT.
"""
A command that runs: its output as it comes, its input, its end.

Output is read from the connection while somebody iterates or waits, and not before: who does not
read holds the command back once the buffers between are full, and nothing piles up here.
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from protobuf import Oneof

from atoll._gen.process import process_pb as ps
from atoll.sdk import wire
from atoll.sdk._sync.daemon import Daemon
from atoll.sdk._synchronization import (
    Data,
    call_back,
    chunks,
    close_stream,
)
from atoll.sdk.errors import ConnectionLostError, InternalError, NotFoundError
from atoll.sdk.messages import input_pieces, process_input, selector
from atoll.sdk.models import Output, Stream
from atoll.sdk.output import Collector
from atoll.sdk.results import CommandResult


class CommandHandle:
    """
    A command that runs in a sandbox, seen through one connection.

    Iterate over it for its output as bytes, or ``wait`` for its end.
    Leaving it, by ``disconnect`` or as a context manager, does not end the command.
    """

    def __init__(self, daemon: Daemon, events: Iterator[Any], pid: int, *, pty: bool = False) -> None:
        self._daemon = daemon
        self._events = events
        self._pty = pty
        self._exit_code: int | None = None
        self.pid = pid

    def __repr__(self) -> str:
        status = "running" if self._exit_code is None else f"ended with {self._exit_code}"
        return f"<CommandHandle {self.pid} in {self._daemon.sandbox_id}, {status}>"

    @property
    def exit_code(self) -> int | None:
        """The command's code, 128 + n when signal n ended it; None while its end has not been read."""
        return self._exit_code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def __iter__(self) -> Iterator[Output]:
        """
        Yield the output, until the command ends.

        Raises:
            DeadlineExceededError: its timeout ended it.
            ConnectionLostError: the connection broke; the command may run on.
            NotFoundError: its sandbox ended.
        """
        for message in self._events:
            match message.event and message.event.event:
                case Oneof(field="data", value=data):
                    if (piece := wire.output(data)) is not None:
                        yield piece
                case Oneof(field="end", value=end):
                    self._exit_code = wire.exit_code(end)
                    self.disconnect()
                    return
        if self._exit_code is None:
            raise ConnectionLostError(
                "The connection ended before the command did.",
                resolution="It may still run: look with commands.list(), attach with commands.connect(pid).",
            )

    def wait(
        self,
        *,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        check: bool = False,
    ) -> CommandResult:
        """
        Read the output to its end and return how the command ended.

        Args:
            on_stdout: called with the output as text, piece by piece.
            on_stderr: the same for the error output.
            check: raise when the code is not 0.

        Raises:
            CommandFailedError: its code is not 0, and ``check`` was asked for.
            DeadlineExceededError: its timeout ended it.
            ConnectionLostError: the connection broke; the command may run on.
        """
        kept = Collector()
        for piece in self:
            text = kept.add(piece)
            call_back(on_stderr if piece.stream is Stream.STDERR else on_stdout, text)
        call_back(on_stdout, kept.rest(Stream.STDOUT))
        call_back(on_stderr, kept.rest(Stream.STDERR))
        assert self._exit_code is not None
        result = kept.result(self._exit_code)
        return result.check() if check else result

    def kill(self) -> bool:
        """End the command with all its descendants; False when it had ended before."""
        return kill(self._daemon, self.pid)

    def send_stdin(self, data: Data) -> None:
        """
        Write to the command's input: str, bytes, a Path, a file or an iterator of bytes.

        Raises:
            NotFoundError: it has ended.
            InternalError: its input is closed, or it was started without one.
        """
        for piece in chunks(data):
            for part in input_pieces(piece):
                request = ps.SendInputRequest(
                    process=selector(self.pid), input=process_input(part, pty=self._pty)
                )
                self._daemon.unary(self._daemon.process.send_input, request)

    def close_stdin(self) -> None:
        """
        End the command's input; a no-op when it is closed.

        Raises:
            NotFoundError: the command has ended.
            InternalError: it is on a terminal: send it Ctrl+D, a byte 4.
        """
        self._daemon.unary(self._daemon.process.close_stdin, ps.CloseStdinRequest(process=selector(self.pid)))

    def disconnect(self) -> None:
        """Stop reading; the command runs on. Only for who reads: from elsewhere, ``kill``."""
        close_stream(self._events)


def kill(daemon: Daemon, pid: int) -> bool:
    """End a command with all its descendants; False when there is none."""
    request = ps.SendSignalRequest(process=selector(pid), signal=ps.Signal.SIGKILL)
    try:
        daemon.unary(daemon.process.send_signal, request)
    except NotFoundError:
        return False
    return True


def open_handle(daemon: Daemon, events: Iterator[Any], *, pty: bool = False) -> CommandHandle:
    """Read the first message of a command's stream, which names its pid."""
    try:
        message = events.__next__()
    except StopIteration:
        raise ConnectionLostError("The connection ended before the command had started.") from None
    match message.event and message.event.event:
        case Oneof(field="start", value=start):
            return CommandHandle(daemon, events, start.pid, pty=pty)
        case _:
            close_stream(events)
            raise InternalError("The sandbox's daemon did not say which process it started.")
