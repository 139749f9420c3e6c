"""From the SDK's words to the daemon's messages. Pure functions; what a user gave is checked here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from protobuf import Oneof

from atoll._gen.process import process_pb as ps
from atoll.sdk.errors import InvalidArgumentError
from atoll.sdk.transport import check_text

Command = str | Sequence[str]

# A terminal's size is two 16-bit numbers in the kernel.
_MOST_CELLS = 65535
# Bytes of input that one message carries: what a pipe takes at once.
_INPUT_PIECE = 64 * 1024


def selector(pid: int) -> ps.ProcessSelector:
    """Name a command by its pid."""
    if not 0 < pid < 1 << 32:
        raise InvalidArgumentError(f"{pid} is no pid.")
    one: Oneof[Literal["pid"], int] = Oneof("pid", pid)
    return ps.ProcessSelector(selector=one)


def input_pieces(data: bytes) -> Iterator[bytes]:
    """Cut input into what one message carries."""
    for start in range(0, len(data), _INPUT_PIECE):
        yield data[start : start + _INPUT_PIECE]


def process_input(data: bytes, *, pty: bool) -> ps.ProcessInput:
    """Carry input; a terminal's is of a kind of its own."""
    typed: Oneof[Literal["pty"], bytes] = Oneof("pty", data)
    piped: Oneof[Literal["stdin"], bytes] = Oneof("stdin", data)
    return ps.ProcessInput(input=typed if pty else piped)


def input_start(pid: int) -> ps.StreamInputRequest:
    """Say whose input follows."""
    start = ps.StreamInputRequest.StartEvent(process=selector(pid))
    event: Oneof[Literal["start"], ps.StreamInputRequest.StartEvent] = Oneof("start", start)
    return ps.StreamInputRequest(event=event)


def input_piece(data: bytes) -> ps.StreamInputRequest:
    """Carry a piece of a stream of input."""
    piece = ps.StreamInputRequest.DataEvent(input=process_input(data, pty=False))
    event: Oneof[Literal["data"], ps.StreamInputRequest.DataEvent] = Oneof("data", piece)
    return ps.StreamInputRequest(event=event)


def process_config(cmd: Command, cwd: str | None, env: Mapping[str, str] | None) -> ps.ProcessConfig:
    """
    Describe a command: a line goes to a login shell.

    Raises:
        InvalidArgumentError: no command, one that is not made of str, NUL, a name no variable can have.
    """
    argv = ["/bin/bash", "-l", "-c", cmd] if isinstance(cmd, str) else list(cmd)
    if not argv or not argv[0] or not all(isinstance(word, str) for word in argv):
        raise InvalidArgumentError("A command is a line, or a program with its arguments, all of them str.")
    for word in argv:
        check_text("a command", word)
    for name, value in (env or {}).items():
        if not name or "=" in name:
            raise InvalidArgumentError(f"{name!r} cannot be the name of a variable.")
        check_text("an environment variable", name + value)
    config: dict[str, Any] = {"cmd": argv[0], "args": argv[1:], "envs": dict(env or {})}
    if cwd is not None:
        config["cwd"] = check_text("cwd", cwd)
    return ps.ProcessConfig(**config)


def terminal(cols: int, rows: int) -> ps.PTY:
    """
    Describe a terminal.

    Raises:
        InvalidArgumentError: a size that no terminal has.
    """
    if not (0 < cols <= _MOST_CELLS and 0 < rows <= _MOST_CELLS):
        raise InvalidArgumentError(f"A terminal cannot have {cols} columns and {rows} rows.")
    return ps.PTY(size=ps.PTY.Size(cols=cols, rows=rows))
