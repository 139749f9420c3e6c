"""
A command in a sandbox as if it ran here: its output on our file descriptors, byte for byte, our input for it.

Reading and writing wait in the event loop, so that Ctrl-C and a connection's end are noticed at any time.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from atoll import (
    AsyncCommandHandle,
    AsyncSandbox,
    AtollError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    Stream,
    UnavailableError,
)

# Bytes that a pipe takes without blocking once it says that it takes any: PIPE_BUF.
_PIPE_PIECE = 4096
_READ_PIECE = 64 * 1024
# What `timeout` and `docker run` end with.
TIMED_OUT = 124
FAILED = 125
# What shells end with.
NOT_EXECUTABLE = 126
NOT_FOUND = 127
# guestd's words about programs that could not be started.
_NOT_STARTED = "error starting process "
_MISSING = ("file does not exist", "no such file or directory")


def code_of(error: AtollError) -> int:
    """Return the exit code for an error: shells' own where the program is not there, or is none."""
    if not isinstance(error, InvalidArgumentError) or not error.message.startswith(_NOT_STARTED):
        return FAILED
    return NOT_FOUND if any(text in error.message for text in _MISSING) else NOT_EXECUTABLE


async def write_all(fd: int, data: bytes) -> None:
    """
    Write bytes, and let the event loop turn while nobody reads them.

    Raises:
        BrokenPipeError: nobody ever will.
    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        while data:
            data = data[os.write(fd, data) :]
        return
    while data:
        await _until(asyncio.get_running_loop().add_writer, asyncio.get_running_loop().remove_writer, fd)
        data = data[os.write(fd, data[:_PIPE_PIECE]) :]


async def read_pieces(fd: int) -> AsyncIterator[bytes]:
    """Read until the end; a file's bytes are there at once, a pipe's and a terminal's are waited for."""
    loop = asyncio.get_running_loop()
    waits = not stat.S_ISREG(os.fstat(fd).st_mode)
    while True:
        if waits:
            await _until(loop.add_reader, loop.remove_reader, fd)
        piece = os.read(fd, _READ_PIECE)
        if not piece:
            return
        yield piece


async def _until(add: Callable[..., Any], remove: Callable[[int], Any], fd: int) -> None:
    """Wait until a file descriptor is ready; what epoll cannot watch, such as /dev/null, always is."""
    ready = asyncio.Event()
    try:
        add(fd, ready.set)
    except PermissionError:
        return
    try:
        await ready.wait()
    finally:
        remove(fd)


async def start(
    sandbox: AsyncSandbox, command: list[str], *, terminal: bool, **wishes: Any
) -> AsyncCommandHandle:
    """Start a command, with an input, or on a terminal of the size of ours."""
    if terminal:
        cols, rows = terminal_size()
        return await sandbox.pty.create(cols, rows, cmd=command, **wishes)
    handle: AsyncCommandHandle = await sandbox.commands.run(command, background=True, stdin=True, **wishes)
    return handle


async def stream(sandbox: AsyncSandbox, handle: AsyncCommandHandle, *, terminal: bool) -> int:
    """
    Connect a command to our file descriptors until it ends; return its code.

    Raises:
        AtollError: the sandbox, or the connection, ended before the command.
        BrokenPipeError: nobody reads our output any more.
    """
    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(_unwrapped())
        helpers = [group.create_task(_feed(handle, terminal=terminal))]
        if terminal:
            stack.enter_context(_raw(sys.stdin.fileno()))
            helpers.append(group.create_task(_follow_size(sandbox, handle)))
        try:
            async for piece in handle:
                await write_all(2 if piece.stream is Stream.STDERR else 1, piece.data)
        finally:
            for helper in helpers:
                helper.cancel()
            await handle.disconnect()
    assert handle.exit_code is not None
    return handle.exit_code


@contextlib.asynccontextmanager
async def _unwrapped() -> AsyncIterator[asyncio.TaskGroup]:
    """Own tasks, and raise the first error itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _feed(handle: AsyncCommandHandle, *, terminal: bool) -> None:
    """Pass our input on. A command may end, or close its input, before it has read all: its own affair."""
    if sys.stdin is None or sys.stdin.closed:
        pieces: AsyncIterator[bytes] = _nothing()
    else:
        pieces = read_pieces(sys.stdin.fileno())
    with contextlib.suppress(AtollError, OSError):
        async for piece in pieces:
            await handle.send_stdin(piece)
        if not terminal:
            await handle.close_stdin()


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


@contextlib.asynccontextmanager
async def explained(sandbox: AsyncSandbox) -> AsyncIterator[None]:
    """Say why the sandbox ended, if it has: the connection's end alone says little."""
    try:
        yield
    except (NotFoundError, UnavailableError, InternalError) as error:
        reason = None
        with contextlib.suppress(AtollError):
            reason = (await sandbox.info()).end_reason
        if reason is None:
            raise
        raise NotFoundError(f"The sandbox {sandbox.id} ended: {reason}.") from error


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Give every key to the terminal inside; ours is as before afterwards, whatever happens."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """Return columns and rows of our terminal."""
    size = shutil.get_terminal_size()
    return size.columns, size.lines


async def _follow_size(sandbox: AsyncSandbox, handle: AsyncCommandHandle) -> None:
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while True:
            await changed.wait()
            changed.clear()
            with contextlib.suppress(AtollError):
                await sandbox.pty.resize(handle.pid, *terminal_size())
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


def run_until_signal(work: Callable[[], Any]) -> int:
    """
    Run a coroutine function; SIGINT, SIGTERM and SIGHUP cancel it, and it cleans up before we end.

    Returns:
        What it returned, or 128 + n when signal n ended it.
    """
    caught: list[int] = []

    async def main() -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def on_signal(number: int) -> None:
            caught.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, on_signal, number)
        code: int = await work()
        return code

    try:
        with asyncio.Runner() as runner:
            return runner.run(main())
    except asyncio.CancelledError:
        return 128 + caught[0] if caught else 1
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def has_terminal() -> bool:
    """Tell whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()
