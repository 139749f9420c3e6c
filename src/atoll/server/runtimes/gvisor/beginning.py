"""Has runsc begin a machine: boots it, or restores its memory, and waits until it is there."""

import asyncio
import fcntl
import os
from pathlib import Path

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.machine import MachineSpec
from atoll.server.host.runsc import RunOptions, Runsc
from atoll.server.runtimes.gvisor.places import Directory
from atoll.server.runtimes.gvisor.running import text

# What guestd may say of errors; a guest that is root can reach it later, so it has an end.
_STDERR_BYTES = 64 * 1024
# "ready" and a line's end; anything longer is not guestd's.
_READY = b"ready"
_MOST_READY = 64


class Beginner:
    """Begins machines whose bundle is written and whose slot and control group are there."""

    def __init__(self, *, runsc: Runsc) -> None:
        self._runsc = runsc

    async def boot(
        self, spec: MachineSpec, directory: Directory, *, timeout_s: float, image: Path | None = None
    ) -> None:
        """
        Boot a machine, over files of a checkpoint if any; return when guestd says that it is ready.

        Raises:
            RunscError: it did not start.
            RunscTimeoutError: runsc did not start it in ``timeout_s``; the caller bounds the time of guestd.
            UnavailableError: guestd ended.
        """
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stderr = _bounded_file()
        try:
            os.set_blocking(write, True)
            try:
                await self._runsc.run(
                    spec.sandbox_id,
                    self._run_options(spec, directory, stdout=write, stderr=stderr, image=image),
                    timeout_s=timeout_s,
                )
            finally:
                # The sandbox holds the other one: its end is the pipe's.
                os.close(write)
            if await _first_line(read) != _READY:
                raise UnavailableError("The machine did not come up", details=_last_words(stderr, directory))
        finally:
            os.close(read)
            os.close(stderr)

    async def restore(
        self, spec: MachineSpec, directory: Directory, *, image: Path, timeout_s: float
    ) -> None:
        """
        Have a machine go on where a checkpoint was taken; errors as for ``boot``.

        guestd says nothing then, since it has let go of what it was given: see serving.py.
        """
        # runsc says here why it fails.
        stderr = _bounded_file()
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            options = self._run_options(spec, directory, stdout=null, stderr=stderr, image=image)
            await self._runsc.restore(spec.sandbox_id, options, timeout_s=timeout_s)
        finally:
            os.close(null)
            os.close(stderr)

    def _run_options(
        self, spec: MachineSpec, directory: Directory, *, stdout: int, stderr: int, image: Path | None
    ) -> RunOptions:
        return RunOptions(
            bundle=directory.path,
            overlay_directory=directory.overlay,
            overlay_bytes=spec.limits.disk_bytes,
            stdout=stdout,
            stderr=stderr,
            pid_file=directory.sentry_pid,
            final_metrics=directory.final_metrics,
            panic_log=directory.panic_log,
            command_log=directory.command_log,
            image=image,
        )


def _bounded_file() -> int:
    """Make a file without a name that cannot grow: a guest's write beyond its end is an error there."""
    fd = os.memfd_create("guestd-stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _STDERR_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


async def _first_line(fd: int) -> bytes:
    """Read a line, or what there is before the end or the limit."""
    loop = asyncio.get_running_loop()
    line = b""
    while b"\n" not in line and len(line) < _MOST_READY:
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(fd)
        chunk = os.read(fd, _MOST_READY)
        if not chunk:
            break
        line += chunk
    return line.partition(b"\n")[0].strip()


def _last_words(stderr: int, directory: Directory) -> str:
    said = os.pread(stderr, 4096, 0).rstrip(b"\0").decode(errors="replace")
    return f"guestd ended before it was ready: {said}\n{text(directory.panic_log)}".strip()
