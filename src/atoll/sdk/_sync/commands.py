# Generated from sdk/_async/commands.py by scripts/unasync.py. DO NOT EDIT.
"""Runs commands in a sandbox, and finds those that run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, overload

from atoll._gen.process import process_pb as ps
from atoll.sdk import wire
from atoll.sdk._sync.daemon import Daemon
from atoll.sdk._sync.handle import CommandHandle, kill, open_handle
from atoll.sdk._synchronization import Alongside, Data, chunks, undo
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


class Commands:
    """
    Commands of one sandbox.

    Every call raises NotFoundError once the sandbox has ended, and what each of ``Sandbox`` raises.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def __repr__(self) -> str:
        return f"<Commands of {self._daemon.sandbox_id}>"

    @overload
    def run(
        self,
        cmd: Command,
        *,
        background: Literal[False] = False,
        timeout: float | None = TIMEOUT,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Data | bool | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        check: bool = False,
    ) -> CommandResult: ...

    @overload
    def run(
        self,
        cmd: Command,
        *,
        background: Literal[True],
        timeout: float | None = TIMEOUT,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Data | bool | None = None,
    ) -> CommandHandle: ...

    def run(
        self,
        cmd: Command,
        *,
        background: bool = False,
        timeout: float | None = TIMEOUT,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Data | bool | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        check: bool = False,
    ) -> CommandResult | CommandHandle:
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
            on_stdout: called with the output as text, piece by piece.
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
        given: Data | None = None if isinstance(stdin, bool) else stdin
        if background and given is not None:
            raise InvalidArgumentError(
                "In the background, stdin is True or False: write with handle.send_stdin()."
            )
        handle = self._start(cmd, timeout, cwd, user, env, bool(stdin) or given is not None)
        if background:
            return handle
        try:
            if given is None:
                if stdin:
                    handle.close_stdin()
                return handle.wait(on_stdout=on_stdout, on_stderr=on_stderr, check=check)
            with Alongside(lambda: self._feed(handle, given)):
                return handle.wait(on_stdout=on_stdout, on_stderr=on_stderr, check=check)
        except BaseException:
            if handle.exit_code is None:
                undo(handle.kill)
            undo(handle.disconnect)
            raise

    def list(self) -> list[ProcessInfo]:
        """List the commands that run, those that others started, too."""
        answer = self._daemon.unary(self._daemon.process.list, ps.ListRequest())
        return [wire.process_info(one) for one in answer.processes]

    def connect(self, pid: int, *, timeout: float | None = None, recent: bool = False) -> CommandHandle:
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
        return open_handle(self._daemon, self._daemon.stream(call, request, timeout=timeout, recent=recent))

    def kill(self, pid: int) -> bool:
        """End a command with all its descendants; False when there is none."""
        return kill(self._daemon, pid)

    def _start(
        self,
        cmd: Command,
        timeout: float | None,
        cwd: str | None,
        user: str | None,
        env: Mapping[str, str] | None,
        stdin: bool,
    ) -> CommandHandle:
        request = ps.StartRequest(process=process_config(cmd, cwd, env), stdin=stdin)
        call = self._daemon.process_streams.start
        return open_handle(self._daemon, self._daemon.stream(call, request, user, timeout))

    def _feed(self, handle: CommandHandle, data: Data) -> None:
        """Write the whole input, then close it. A command that got only a part of it must not go on."""
        failures: list[Exception] = []
        try:
            inputs = _inputs(handle.pid, data, failures)
            self._daemon.send_stream(self._daemon.process.stream_input, inputs)
            if not failures:
                handle.close_stdin()
        except (NotFoundError, InternalError, FailedPreconditionError):
            # It has ended, or has closed its input, before it had read all: that is its own affair.
            return
        except AtollError as error:
            if handle.exit_code is None and handle.pid in {one.pid for one in self.list()}:
                failures.append(error)
        if failures:
            try:
                handle.kill()
            finally:
                # Also when the command's end cancels this: why it ended is what counts.
                raise failures[0]


def _inputs(pid: int, data: Data, failures: list[Exception]) -> Iterator[ps.StreamInputRequest]:
    """Yield the messages; keep the source's error, which the HTTP library takes for the end of the data."""
    yield input_start(pid)
    try:
        for piece in chunks(data):
            for part in input_pieces(piece):
                yield input_piece(part)
    except Exception as error:
        failures.append(error)
