"""
A control group: what the kernel counts, bounds and ends together.

What both versions promise is here; how each keeps it: cgroup_v1.py, cgroup_v2.py; which one it is: cgroup.py.
Limits are set on leaves only; the directory between the top and the leaves only groups them.

Files of a control group answer from memory, in microseconds, so they are read where one stands.
Making, joining and removing one can wait for the kernel (a grace period of RCU): that belongs into a thread.
"""

import asyncio
import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from atoll.server.host.threads import finish_in_thread

# Where every distribution mounts them, and the only place where runsc looks.
MOUNT = Path("/sys/fs/cgroup")
# Between two looks at a group that is being emptied: ending a process takes about so long.
_LOOK_AGAIN_S = 0.004
# A number that was killed can be another process's by then.
_KILL_AGAIN_S = 0.1
# A group can be busy for a moment after its last process ended.
_REMOVE_AGAIN_S = 0.01
# Bytes read at once: more than any file of numbers has.
_AT_ONCE = 65_536


class CgroupError(Exception):
    """The kernel did not do it; says which file and why."""


class Cgroup(ABC):
    """
    One group, by its path below the mount ("/atoll-0a1b2c/i..."); it need not exist.

    Everything that reads raises CgroupError when it does not, and everything that removes is content.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def directories(self) -> list[Path]:
        """List the group's directories: one, or one for each hierarchy that has it."""

    @abstractmethod
    def create(self, *, memory_bytes: int, processes: int) -> None:
        """
        Make the group with its first limits; a no-op for what is there. May block for milliseconds.

        Args:
            memory_bytes: the wall; what runs first in the group sees it as the size of the machine.
            processes: processes and threads, as the host counts them.
        """

    @abstractmethod
    def set_memory_wall(self, size: int) -> None:
        """Let the kernel end processes when the group needs more than ``size`` bytes. Swap does not add."""

    @abstractmethod
    def set_cpus(self, cores: float) -> None:
        """
        Give the group so much time of processors, in cores, at least 0.01.

        What an idle group leaves of one period it may use later, on top, where the kernel can (5.14 and
        later): a command that takes 10 ms is not stopped for 90 because its first moments needed all cores.
        """

    @abstractmethod
    def memory_use(self) -> tuple[int, int]:
        """Read what programs hold, shared memory too, and the cache of files beside that; in bytes."""

    def memory_resident(self) -> int:
        """Read what programs hold, shared memory too, without the cache of files; in bytes."""
        return self.memory_use()[0]

    @abstractmethod
    def memory_total(self) -> int:
        """Read all that counts against the wall, the cache too, in bytes; cheap."""

    @abstractmethod
    def out_of_memory_kills(self) -> int:
        """Count the processes that the kernel ended at the wall."""

    @abstractmethod
    def refused_processes(self) -> int:
        """Count the forks that the limit of processes refused."""

    @abstractmethod
    def cpu_seconds(self) -> float:
        """Read the processor time that the group used since it was made."""

    @abstractmethod
    async def watch_memory(self, near: int, most: int, crossed: Callable[[], None]) -> Callable[[], None]:
        """
        Have ``crossed`` called in this loop when use grows past a mark; returns what ends the watch.

        The kernel may call too often, and it tells crossings only: not that use stays above.

        Args:
            near: the mark where the kernel can tell any, in bytes.
            most: the mark where it also slows down who allocates beyond it; above ``near``.
        """

    @abstractmethod
    def stop_at_wall(self, reached: Callable[[], None]) -> Callable[[], None]:
        """
        Have the kernel let processes wait at the wall, where it can, rather than end them; returns the end.

        ``reached`` is called in this loop when some wait, and they wait until the wall is set higher, or
        memory is given back. After the end of the watch they still wait. Version 2 cannot: there the mark of
        ``watch_memory`` slows them down before.
        """

    @abstractmethod
    def pids(self) -> list[int]:
        """List the group's processes, none when there is no group."""

    def some_pids(self) -> list[int]:
        """List processes of the group, none only when it has none: what is cheap to ask again and again."""
        return self.pids()

    @abstractmethod
    def freeze(self) -> None:
        """Have every process stand still at once, where the kernel can, until ``thaw``."""

    @abstractmethod
    def thaw(self) -> None:
        """Undo ``freeze``; ``kill_once`` ends what is frozen, too."""

    @abstractmethod
    def kill_once(self) -> None:
        """Have every process of the group killed that is there now; those born meanwhile may be missed."""

    def exists(self) -> bool:
        """Say whether anything of the group is there."""
        return any(directory.is_dir() for directory in self.directories())

    async def kill(self, *, timeout_s: float) -> None:
        """
        End every process of the group; return when none is left.

        Raises:
            CgroupError: some were still there after the time.
        """
        end = time.monotonic() + timeout_s
        again, killed = 0.0, set[int]()
        while pids := self.some_pids():
            # Those that end take up to seconds, for their memory; killing them anew takes processor time.
            if time.monotonic() >= again or not killed.issuperset(pids):
                self.kill_once()
                again, killed = time.monotonic() + _KILL_AGAIN_S, set(pids)
            if time.monotonic() > end:
                raise CgroupError(f"processes {pids[:16]} of {self.path} outlive SIGKILL by {timeout_s} s")
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def remove(self, *, timeout_s: float) -> None:
        """
        Remove the group, and groups below it; it must hold no process.

        Raises:
            CgroupError: the kernel kept it busy for the whole time.
        """
        await finish_in_thread(self._remove, time.monotonic() + timeout_s)

    def _remove(self, end: float) -> None:
        for directory in self.directories():
            while True:
                try:
                    remove_tree(directory)
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        raise CgroupError(f"rmdir {directory}: {error.strerror}") from error
                    time.sleep(_REMOVE_AGAIN_S)


def join(top: Path, path: str) -> Path:
    """Put a group's path below a hierarchy's top."""
    return top / path.lstrip("/")


def read_text(file: Path) -> str:
    """Read a file of a group."""
    try:
        return _read(file).decode()
    except OSError as error:
        raise CgroupError(f"read {file}: {error.strerror}") from error


def _read(file: Path) -> bytes:
    # Those of every sandbox are read all the time: Python's own files take three times as long.
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, _AT_ONCE), b""))
    finally:
        os.close(fd)


def write_text(file: Path, value: str) -> None:
    """Write a file of a group, which must be there."""
    try:
        # Opened without O_CREAT: a file that a kernel lacks must be an error in a test's tree too.
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise CgroupError(f"write {value!r} to {file}: {error.strerror}") from error


def read_fields(file: Path) -> dict[str, int]:
    """Read a file of lines "name number"."""
    found: dict[str, int] = {}
    for line in read_text(file).splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def read_pids(file: Path) -> list[int]:
    """Read a file of process numbers; none when it is not there, or the group is just going."""
    try:
        # 0 stands for a process of another PID namespace, which we could not name.
        return [int(word) for word in _read(file).split() if word != b"0"]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise CgroupError(f"read {file}: {error.strerror}") from error


def kill_member(pid: int, is_member: Callable[[int], bool]) -> None:
    """Kill a process, unless its number belongs to one outside of the group by now."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Looked up after the descriptor was made: the number is this process's as long as it lives.
        if is_member(pid):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.close(fd)


def remove_tree(directory: Path) -> None:
    """
    Remove a group of one hierarchy and those below it; a no-op when there is none.

    Raises:
        OSError: one holds a process, or is busy.
    """
    try:
        below = [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for name in below:
        remove_tree(directory / name)
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()
