"""
Processes that are held by a file descriptor, so that a reused number can never be taken for them.

A process is written down as its number and its start time, and opened again from these two after a restart.
A pidfd tells the end of any process, of those too that are not our children; only a child's exit status is
left to whoever started it.
"""

import asyncio
import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# Of /proc/<pid>/stat, counted behind the name's closing parenthesis: state is the first, start time the 20th.
_START_TIME_INDEX = 19


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """What names one process as long as the machine is up."""

    pid: int
    """Its number; the kernel gives it to another process later."""

    start_time: int
    """Clock ticks between the machine's start and the process's."""


def read_start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the machine did; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold spaces and parentheses; what follows the last one is numbers.
    return int(stat.rpartition(b")")[2].split()[_START_TIME_INDEX])


class Pidfd:
    """
    One process, held.

    Close it, or use it as a context manager; closing does nothing to the process.
    """

    def __init__(self, fd: int, identity: ProcessId) -> None:
        self._fd = fd
        self.identity = identity

    @classmethod
    def open(cls, pid: int, *, start_time: int | None = None) -> Self:
        """
        Hold the process with this number.

        With *start_time* only that very process will do.
        Without, the number must not have been given away: the process is a child not yet waited for.

        Raises:
            ProcessLookupError: it is gone, or the number belongs to another process now.
        """
        if pid <= 0:
            raise ProcessLookupError(f"{pid} is no process number")
        fd = os.pidfd_open(pid)
        try:
            # Read after opening: a match means that it lived before and after the descriptor was made.
            found = read_start_time(pid)
            if found is None or (start_time is not None and found != start_time):
                raise ProcessLookupError(f"process {pid} is gone")
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, ProcessId(pid=pid, start_time=found))

    def fileno(self) -> int:
        """Return the descriptor: readable once the process has ended."""
        return self._fd

    def has_ended(self) -> bool:
        """Say whether the process has ended; one that nobody has waited for yet (a zombie) has."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def send_signal(self, number: signal.Signals) -> bool:
        """Signal this process and no other; False if it is gone."""
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return False
        return True

    async def wait_ended(self) -> None:
        """
        Return when the process has ended.

        Any number of tasks may wait at once; put a timeout around it.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        # A copy each, since the loop keeps one callback a descriptor.
        fd = os.dup(self._fd)
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def terminate(self, *, patience_s: float) -> None:
        """
        End the process: SIGTERM, and SIGKILL if it lives *patience_s* later; return when it has ended.

        Raises:
            TimeoutError: it outlives SIGKILL by *patience_s* too: the kernel holds it.
        """
        if patience_s > 0 and self.send_signal(signal.SIGTERM):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self.wait_ended()
        await self.kill(patience_s=max(patience_s, 5))

    async def kill(self, *, patience_s: float) -> None:
        """
        Send SIGKILL and return when the process has ended.

        Raises:
            TimeoutError: it is still there *patience_s* later: the kernel holds it.
        """
        self.send_signal(signal.SIGKILL)
        async with asyncio.timeout(patience_s):
            await self.wait_ended()

    def close(self) -> None:
        """Let go of the process; twice does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pidfd {self.identity.pid} {'closed' if self._fd < 0 else 'open'}>"
