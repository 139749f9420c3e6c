"""
Programs that outlive the server.

Started in a session of their own, with no descriptor of ours but a log, and held by a pidfd, not as children
that an event loop would end with itself.
Such a program says ``ready`` on its standard output once it serves, and lets go.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import structlog

from atoll.server.host.pidfd import Pidfd

log = structlog.get_logger(__name__)

# The word, and no more than a line of it is read.
_READY = b"ready\n"
# Of the log of a program that did not start, this much goes into the error.
_MOST_OUTPUT = 2048
# struct ucred: pid, uid, gid.
_UCRED = struct.Struct("3i")


class DaemonError(Exception):
    """A program did not start: its command line, and the end of what it logged."""

    def __init__(self, argv: Sequence[str], reason: str, output: str) -> None:
        super().__init__(f"{shlex.join(argv)}: {reason}\n{output.strip()}".strip())


async def start_daemon(argv: Sequence[str], *, log_file: Path, patience_s: float) -> Pidfd:
    """
    Start a program and return when it is ready.

    Args:
        argv: the program's path, and its arguments.
        log_file: gets what it writes to standard error, behind what is there.
        patience_s: how long it may take; then it is killed.

    Raises:
        DaemonError: it ended, or took too long.
    """
    log.debug("daemon starting", command=shlex.join(argv))
    ready, say_ready = os.pipe()
    try:
        try:
            logged = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                before = os.fstat(logged).st_size
                held = _spawn(argv, stdout=say_ready, stderr=logged)
            finally:
                os.close(logged)
        finally:
            os.close(say_ready)
        try:
            if await _first_line(ready, patience_s) == _READY:
                return held
            reason = "ended, or did not become ready in time"
            raise DaemonError(argv, reason, _end_of(log_file, since=before))
        except BaseException:
            held.send_signal(signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.shield(_end(held, patience_s))
            raise
    finally:
        os.close(ready)


def reap(held: Pidfd) -> None:
    """Take the exit status of a daemon that has ended, if it is our child: nobody else does."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(held.identity.pid, os.WNOHANG)


def listener_of(path: Path) -> Pidfd | None:
    """
    Hold the process that listens on a Unix socket, as the kernel tells it; None if nobody does.

    The process need not answer, but one whose queue is full of others' calls is not found.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A listener that hangs has a full queue one day; then connecting must not block us.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return None
        pid, _, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        return Pidfd.open(pid)
    except ProcessLookupError:
        return None


def runs_program(held: Pidfd, program: Path) -> bool:
    """Say whether a process runs this very file, not one that was there before it was replaced."""
    try:
        return os.path.samestat(Path(f"/proc/{held.identity.pid}/exe").stat(), program.stat())
    except OSError:
        return False


def _spawn(argv: Sequence[str], *, stdout: int, stderr: int) -> Pidfd:
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        {},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()),
        ],
        setsid=True,
        # Python ignores SIGPIPE, and what is ignored stays so in children.
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        setsigmask=[],
    )
    # A child that nobody has waited for keeps its number.
    return Pidfd.open(pid)


def _inherited() -> list[int]:
    """List what whoever started us left open, a lock perhaps: a daemon that outlives us must not hold it."""
    found = []
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        # The one that listed them is gone.
        with contextlib.suppress(OSError):
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


async def _first_line(fd: int, patience_s: float) -> bytes:
    """Read up to the end of a line, of the stream or of our patience."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    text = b""
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        async with asyncio.timeout(patience_s):
            while not text.endswith(b"\n") and len(text) < len(_READY):
                await readable.wait()
                readable.clear()
                if not (piece := os.read(fd, len(_READY) - len(text))):
                    break
                text += piece
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(fd)
    return text


async def _end(held: Pidfd, patience_s: float) -> None:
    try:
        await held.kill(patience_s=patience_s)
        reap(held)
    finally:
        held.close()


def _end_of(log_file: Path, *, since: int) -> str:
    with contextlib.suppress(OSError), log_file.open("rb") as text:
        text.seek(max(since, log_file.stat().st_size - _MOST_OUTPUT))
        return text.read().decode(errors="replace")
    return ""
