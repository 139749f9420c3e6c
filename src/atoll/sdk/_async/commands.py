"""Runs commands in a sandbox, and finds those that run."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal, overload

from atoll._gen.process import process_pb as ps
from atoll.sdk import wire
from atoll.sdk._async.daemon import AsyncDaemon
from atoll.sdk._async.handle import AsyncCommandHandle, kill, open_handle
from atoll.sdk._synchronization import AsyncAlongside, AsyncData, async_chunks, async_undo
from atoll.sdk.errors import (
    AtollError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)
from atoll.sdk.messages import Command, input_piece, input_pieces, input_start, process_config, selector
from atoll.sdk.models import ProcessInfo
from atoll.sdk.results import CommandResult

# Seconds that a command may take when nothing else is said.
TIMEOUT = 60.0


class AsyncCommands:
    """
    Commands of one sandbox.

    Every call raises NotFoundError once the sandbox has ended, and what each of ``AsyncSandbox`` raises.
    """

    def __init__(self, daemon: AsyncDaemon) -> None:
        self._daemon = daemon

    def __repr__(self) -> str:
        return f"<AsyncCommands of {self._daemon.sandbox_id}>"

    @overload
    async def run(
        self,
        cmd: Command,
        *,
        background: Literal[False] = False,
        timeout: float | None = TIMEOUT,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: AsyncData | bool | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        check: bool = False,
    ) -> CommandResult: ...

    @overload
    async def run(
        self,
        cmd: Command,
        *,
        background: Literal[True],
        timeout: float | None = TIMEOUT,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: AsyncData | bool | None = None,
    ) -> AsyncCommandHandle: ...

    async def run(
        self,
        cmd: Command,
        *,
        background: bool = False,
        timeout: float | None = TIMEOUT,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: AsyncData | bool | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        check: bool = False,
    ) -> CommandResult | AsyncCommandHandle:
        """
        Run a command and return how it ended, or, in the background, a handle on it.

        A command in the foreground that is given up, because the caller is cancelled or a callback raised,
        is killed. One in the background runs on until its timeout.

        Args:
            cmd: a line for a login shell, or a program with its arguments.
            background: return as soon as it runs.
            timeout: seconds after which it is killed with all its descendants; None or 0: never.
            cwd: where it runs; the user's home when not given.
            user: who runs it; the template's default user when not given.
            env: on top of the sandbox's own.
            stdin: in the foreground its whole input; in the background True, for an input to write to later.
            on_stdout: called with the output as text, piece by piece; may be a coroutine function.
            on_stderr: the same for the error output.
            check: raise when the code is not 0.

        Raises:
            CommandFailedError: its code is not 0, and ``check`` was asked for.
            DeadlineExceededError: its timeout ended it.
            InvalidArgumentError: cwd does not exist, NUL in an argument, or a line that is too long.
            UnauthenticatedError: no such user.
            ResourceExhaustedError: the sandbox runs as many as it may.
            ConnectionLostError: the connection broke; the command may run on.
        """
        # A bool says whether there is an input; anything else is one.
        given: AsyncData | None = None if isinstance(stdin, bool) else stdin
        if background and given is not None:
            raise InvalidArgumentError(
                "In the background, stdin is True or False: write with handle.send_stdin()."
            )
        handle = await self._start(cmd, timeout, cwd, user, env, bool(stdin) or given is not None)
        if background:
            return handle
        try:
            if given is None:
                if stdin:
                    await handle.close_stdin()
                return await handle.wait(on_stdout=on_stdout, on_stderr=on_stderr, check=check)
            async with AsyncAlongside(lambda: self._feed(handle, given)):
                return await handle.wait(on_stdout=on_stdout, on_stderr=on_stderr, check=check)
        except BaseException:
            if handle.exit_code is None:
                await async_undo(handle.kill)
            await async_undo(handle.disconnect)
            raise

    async def list(self) -> list[ProcessInfo]:
        """List the commands that run, those that others started, too."""
        answer = await self._daemon.unary(self._daemon.process.list, ps.ListRequest())
        return [wire.process_info(one) for one in answer.processes]

    async def connect(
        self, pid: int, *, timeout: float | None = None, recent: bool = False
    ) -> AsyncCommandHandle:
        """
        Attach to a running command, or to one that ended within the last minute.

        Args:
            pid: as ``list`` or a handle tells it.
            timeout: seconds after which the connection ends; None or 0: never.
            recent: whether its last output from before comes first: up to 128 KiB, less where many commands
                print much. Nothing is missing between that and what is printed from now on, and nothing
                comes twice. Else, output from before is not repeated.

        Raises:
            NotFoundError: no such command.
        """
        request = ps.ConnectRequest(process=selector(pid))
        call = self._daemon.process_streams.connect
        return await open_handle(
            self._daemon, self._daemon.stream(call, request, timeout=timeout, recent=recent)
        )

    async def kill(self, pid: int) -> bool:
        """End a command with all its descendants; False when there is none."""
        return await kill(self._daemon, pid)

    async def _start(
        self,
        cmd: Command,
        timeout: float | None,
        cwd: str | None,
        user: str | None,
        env: Mapping[str, str] | None,
        stdin: bool,
    ) -> AsyncCommandHandle:
        request = ps.StartRequest(process=process_config(cmd, cwd, env), stdin=stdin)
        call = self._daemon.process_streams.start
        return await open_handle(self._daemon, self._daemon.stream(call, request, user, timeout))

    async def _feed(self, handle: AsyncCommandHandle, data: AsyncData) -> None:
        """Write the whole input, then close it. A command that got only a part of it must not go on."""
        failures: list[Exception] = []
        try:
            inputs = _inputs(handle.pid, data, failures)
            await self._daemon.send_stream(self._daemon.process.stream_input, inputs)
            if not failures:
                await handle.close_stdin()
        except (NotFoundError, InternalError, FailedPreconditionError):
            # It has ended, or has closed its input, before it had read all: that is its own affair.
            return
        except AtollError as error:
            if handle.exit_code is None and handle.pid in {one.pid for one in await self.list()}:
                failures.append(error)
        if failures:
            try:
                await handle.kill()
            finally:
                # Also when the command's end cancels this: why it ended is what counts.
                raise failures[0]


async def _inputs(
    pid: int, data: AsyncData, failures: list[Exception]
) -> AsyncIterator[ps.StreamInputRequest]:
    """Yield the messages; keep the source's error, which the HTTP library takes for the end of the data."""
    yield input_start(pid)
    try:
        async for piece in async_chunks(data):
            for part in input_pieces(piece):
                yield input_piece(part)
    except Exception as error:
        failures.append(error)
