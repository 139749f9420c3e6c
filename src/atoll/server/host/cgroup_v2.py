"""
Control groups, version 2: one hierarchy.

A directory that hands controllers down (subtree_control) holds no process itself:
the group is a leaf, and the directories above it only hand down.
"""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from pathlib import Path

from atoll.server.host.cgroup_base import (
    MOUNT,
    Cgroup,
    CgroupError,
    join,
    kill_member,
    read_fields,
    read_pids,
    read_text,
    write_text,
)

# runsc asks for them; "cpuset" and "io" are handed down where the machine has them.
_NEEDED = ("cpu", "memory", "pids")
_WELCOME = ("cpuset", "io")
# In microseconds: Linux's own default.
_PERIOD_US = 100_000
# Where the processes at the top of a container's hierarchy go, so that groups can be made beside them.
_OTHERS = "atoll-others"


class CgroupV2(Cgroup):
    """One group of version 2."""

    def __init__(self, path: str, mount: Path = MOUNT) -> None:
        super().__init__(path)
        self._mount = mount
        self._directory = join(mount, path)
        # Read again and again.
        self._memory_current = self._directory / "memory.current"
        self._memory_stat = self._directory / "memory.stat"
        self._cpu_stat = self._directory / "cpu.stat"

    def directories(self) -> list[Path]:
        """List the one directory."""
        return [self._directory]

    def create(self, *, memory_bytes: int, processes: int) -> None:
        """Make the group; each level above it hands the controllers down."""
        level = self._mount
        for part in self.path.strip("/").split("/"):
            _hand_down(level, self._mount)
            level = level / part
            try:
                level.mkdir(exist_ok=True)
            except OSError as error:
                raise CgroupError(f"mkdir {level}: {error.strerror}") from error
        self.set_memory_wall(memory_bytes)
        write_text(self._directory / "pids.max", str(processes))

    def set_memory_wall(self, size: int) -> None:
        """Set memory.max, allow no swap, and have all of the group end together: half a sandbox is none."""
        write_text(self._directory / "memory.max", str(size))
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            # Kernels without swap accounting, or before 4.19, do not have them.
            with contextlib.suppress(CgroupError):
                write_text(self._directory / name, value)

    def set_cpus(self, cores: float) -> None:
        """Set cpu.max, and as much for bursts."""
        quota = max(1000, round(cores * _PERIOD_US))
        write_text(self._directory / "cpu.max", f"{quota} {_PERIOD_US}")
        burst = self._directory / "cpu.max.burst"
        if burst.exists():
            write_text(burst, str(quota))

    def memory_use(self) -> tuple[int, int]:
        """Read memory.stat; the sentry's memory file is shared memory, which "file" counts too."""
        stat = read_fields(self._memory_stat)
        shared = stat.get("shmem", 0)
        return stat.get("anon", 0) + shared, max(stat.get("file", 0) - shared, 0)

    def memory_total(self) -> int:
        """Read memory.current."""
        return int(read_text(self._memory_current))

    def out_of_memory_kills(self) -> int:
        """Read memory.events."""
        return read_fields(self._directory / "memory.events").get("oom_kill", 0)

    def refused_processes(self) -> int:
        """Read pids.events."""
        return read_fields(self._directory / "pids.events").get("max", 0)

    def cpu_seconds(self) -> float:
        """Read cpu.stat, in microseconds."""
        return read_fields(self._cpu_stat).get("usage_usec", 0) / 1e6

    async def watch_memory(self, near: int, most: int, crossed: Callable[[], None]) -> Callable[[], None]:
        """Set memory.high to ``most``: the kernel counts events beyond it, and slows allocations down."""
        write_text(self._directory / "memory.high", str(most))
        return watch_file(self._directory / "memory.events", crossed)

    def stop_at_wall(self, reached: Callable[[], None]) -> Callable[[], None]:
        """Do nothing: see ``memory.high``."""
        return lambda: None

    def pids(self) -> list[int]:
        """Read cgroup.procs."""
        return read_pids(self._directory / "cgroup.procs")

    def freeze(self) -> None:
        """Write cgroup.freeze (Linux 5.2)."""
        self._freeze("1")

    def thaw(self) -> None:
        """Write cgroup.freeze."""
        self._freeze("0")

    def kill_once(self) -> None:
        """Write cgroup.kill, which forks cannot outrun (Linux 5.14); before, kill each."""
        try:
            write_text(self._directory / "cgroup.kill", "1")
        except CgroupError:
            for pid in self.pids():
                kill_member(pid, self._is_member)

    def _freeze(self, state: str) -> None:
        with contextlib.suppress(CgroupError):
            write_text(self._directory / "cgroup.freeze", state)

    def _is_member(self, pid: int) -> bool:
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return any(line.startswith("0::") and line.endswith(self.path) for line in lines)


def watch_file(file: Path, changed: Callable[[], None]) -> Callable[[], None]:
    """
    Have ``changed`` called in this loop when the kernel says that a file of a group changed; returns the end.

    The kernel says so by POLLPRI, which no event loop waits for; so a descriptor of epoll's stands between.
    """
    loop = asyncio.get_running_loop()
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CgroupError(f"open {file}: {error.strerror}") from error
    poll = None
    try:
        poll = select.epoll()
        # Reading arms it.
        os.pread(fd, 4096, 0)
        poll.register(fd, select.EPOLLPRI)
    except OSError as error:
        if poll is not None:
            poll.close()
        os.close(fd)
        raise CgroupError(f"{file} tells no changes: {error.strerror}") from error

    def called() -> None:
        with contextlib.suppress(OSError):
            os.pread(fd, 4096, 0)
        changed()

    def end() -> None:
        loop.remove_reader(poll.fileno())
        poll.close()
        os.close(fd)

    loop.add_reader(poll.fileno(), called)
    return end


def take_back(mount: Path) -> None:
    """Undo what ``create`` did to the top of a container's hierarchy, once our groups are gone."""
    leaf = mount / _OTHERS
    if not leaf.is_dir():
        return
    if any(path.is_dir() and path.name != _OTHERS for path in list(mount.iterdir())):
        return
    given = read_text(mount / "cgroup.subtree_control").split()
    with contextlib.suppress(CgroupError, OSError):
        if given:
            write_text(mount / "cgroup.subtree_control", " ".join(f"-{name}" for name in given))
        _move(leaf, mount)
        leaf.rmdir()


def _hand_down(directory: Path, mount: Path) -> None:
    have = set(read_text(directory / "cgroup.controllers").split())
    given = set(read_text(directory / "cgroup.subtree_control").split())
    if missing := [name for name in _NEEDED if name not in have]:
        raise CgroupError(f"{directory} has no controllers {', '.join(missing)}")
    for name in (*_NEEDED, *_WELCOME):
        if name in have and name not in given:
            try:
                _give(directory, name, mount)
            except CgroupError:
                if name in _NEEDED:
                    raise


def _give(directory: Path, controller: str, mount: Path) -> None:
    file = directory / "cgroup.subtree_control"
    try:
        write_text(file, f"+{controller}")
    except CgroupError:
        # The top of a container's own hierarchy holds processes, ourselves among them, and the kernel
        # wants them in a leaf first. The machine's real top is exempt, and never comes here.
        if directory != mount or not read_pids(directory / "cgroup.procs"):
            raise
        leaf = mount / _OTHERS
        leaf.mkdir(exist_ok=True)
        _move(mount, leaf)
        write_text(file, f"+{controller}")


def _move(source: Path, target: Path) -> None:
    for pid in read_pids(source / "cgroup.procs"):
        # Gone meanwhile, or a kernel thread that cannot move.
        with contextlib.suppress(CgroupError):
            write_text(target / "cgroup.procs", str(pid))
