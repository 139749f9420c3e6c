# Generated from sdk/_async/pty.py by scripts/unasync.py. DO NOT EDIT.
"""Terminals in a sandbox."""

from collections.abc import Mapping

from atoll._gen.process import process_pb as ps
from atoll.sdk._sync.daemon import Daemon
from atoll.sdk._sync.handle import CommandHandle, open_handle
from atoll.sdk.messages import Command, process_config, selector, terminal

# What a shell on a terminal expects; the caller's own words win.
_ENV = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
_SHELL = ("/bin/bash", "-i", "-l")


class Pty:
    """
    Terminals of one sandbox.

    Every call raises NotFoundError once the sandbox has ended, and what each of ``Sandbox`` raises.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def __repr__(self) -> str:
        return f"<Pty of {self._daemon.sandbox_id}>"

    def create(
        self,
        cols: int = 80,
        rows: int = 24,
        *,
        cmd: Command = _SHELL,
        cwd: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> CommandHandle:
        """
        Start a program on a terminal of its own: a login shell, if nothing else is said.

        The handle yields what the terminal shows; ``send_stdin`` types.

        Args:
            cols: characters of a line, at most 65535, like the lines.
            rows: lines.
            cmd: a line for a login shell, or a program with its arguments.
            cwd: where it runs; the user's home when not given.
            user: who runs it; the template's default user when not given.
            env: on top of the sandbox's own, and of a terminal's.
            timeout: seconds after which it is killed with all its descendants; None or 0: never.

        Raises:
            InvalidArgumentError: cwd does not exist, NUL in an argument, or another size.
            UnauthenticatedError: no such user.
            ResourceExhaustedError: the sandbox runs as many commands as it may.
        """
        request = ps.StartRequest(
            process=process_config(cmd, cwd, _ENV | dict(env or {})), pty=terminal(cols, rows)
        )
        call = self._daemon.process_streams.start
        events = self._daemon.stream(call, request, user, timeout)
        return open_handle(self._daemon, events, pty=True)

    def connect(self, pid: int, *, recent: bool = False) -> CommandHandle:
        """
        Attach to a terminal that is there.

        Args:
            recent: whether what it has shown lately comes first, as with ``commands.connect``.

        Raises:
            NotFoundError: no such command.
        """
        request = ps.ConnectRequest(process=selector(pid))
        events = self._daemon.stream(self._daemon.process_streams.connect, request, recent=recent)
        return open_handle(self._daemon, events, pty=True)

    def resize(self, pid: int, cols: int, rows: int) -> None:
        """
        Change the size of a terminal.

        Args:
            pid: of the program on it.
            cols: characters of a line, at most 65535, like the lines.
            rows: lines.

        Raises:
            NotFoundError: no such command.
            InvalidArgumentError: another size.
            InternalError: it is on no terminal.
        """
        request = ps.UpdateRequest(process=selector(pid), pty=terminal(cols, rows))
        self._daemon.unary(self._daemon.process.update, request)
