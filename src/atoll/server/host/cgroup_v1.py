"""
Control groups, version 1: a hierarchy for each controller, the same path in all of them.

runsc makes and joins its group in every hierarchy that the machine has, so removal looks in all.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
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
from atoll.server.host.threads import finish_in_thread

# What we set or read. runsc asks for a processor set too, and copies the parent's into it.
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer", "cpuset")
# In microseconds: Linux's own default.
_PERIOD_US = 100_000


class CgroupV1(Cgroup):
    """One group of version 1."""

    def __init__(self, path: str, mount: Path = MOUNT) -> None:
        super().__init__(path)
        self._mount = mount
        self._memory = join(mount / "memory", path)
        self._cpu = join(mount / "cpu", path)
        self._cpuacct = join(mount / "cpuacct", path)
        self._pids = join(mount / "pids", path)
        self._freezer = join(mount / "freezer", path)
        # Read again and again.
        self._memory_usage = self._memory / "memory.usage_in_bytes"
        self._memory_stat = self._memory / "memory.stat"
        self._cpuacct_usage = self._cpuacct / "cpuacct.usage"
        self._directories: list[Path] = []

    def directories(self) -> list[Path]:
        """List the group's directory of every hierarchy; "cpu" and "cpu,cpuacct" may be one and the same."""
        if not self._directories:
            # Once: to end a group asks for them ten times, and took more time for this than for all else.
            tops = sorted(top for top in self._mount.iterdir() if top.is_dir())
            self._directories = [join(top, self.path) for top in tops]
        return self._directories

    def create(self, *, memory_bytes: int, processes: int) -> None:
        """Make the group in the hierarchies of the controllers that we use."""
        for controller in _CONTROLLERS:
            top = self._mount / controller
            if not top.is_dir():
                # Missing freezer, cpuset or pids weakens a wall; memory and cpu are asked for below.
                continue
            with _kernel(f"mkdir {join(top, self.path)}"):
                join(top, self.path).mkdir(parents=True, exist_ok=True)
        self._inherit_cpuset()
        self.set_memory_wall(memory_bytes)
        with contextlib.suppress(CgroupError):
            # The group's own pages may not be swapped out: the promise is memory, not disk.
            write_text(self._memory / "memory.swappiness", "0")
        if self._pids.is_dir():
            write_text(self._pids / "pids.max", str(processes))

    def set_memory_wall(self, size: int) -> None:
        """Set the limit, and that of memory and swap together where the kernel counts swap."""
        both = self._memory / "memory.memsw.limit_in_bytes"
        files = [self._memory / "memory.limit_in_bytes"]
        if both.exists():
            # The limit of both must never be the lower one.
            growing = size > int(read_text(both))
            files.insert(0 if growing else 1, both)
        for file in files:
            write_text(file, str(size))

    def set_cpus(self, cores: float) -> None:
        """Set the quota for each period, and as much for bursts."""
        quota = str(max(1000, round(cores * _PERIOD_US)))
        write_text(self._cpu / "cpu.cfs_period_us", str(_PERIOD_US))
        write_text(self._cpu / "cpu.cfs_quota_us", quota)
        burst = self._cpu / "cpu.cfs_burst_us"
        if burst.exists():
            write_text(burst, quota)

    def memory_use(self) -> tuple[int, int]:
        """Read memory.stat; the sentry's memory file is shared memory, which "cache" counts too."""
        stat = read_fields(self._memory_stat)
        shared = stat.get("shmem", 0)
        return stat.get("rss", 0) + shared, max(stat.get("cache", 0) - shared, 0)

    def memory_total(self) -> int:
        """Read memory.usage_in_bytes."""
        return int(read_text(self._memory_usage))

    def out_of_memory_kills(self) -> int:
        """Read the counter of memory.oom_control (Linux 4.13)."""
        return read_fields(self._memory / "memory.oom_control").get("oom_kill", 0)

    def refused_processes(self) -> int:
        """Read pids.events."""
        file = self._pids / "pids.events"
        return read_fields(file).get("max", 0) if file.exists() else 0

    def cpu_seconds(self) -> float:
        """Read cpuacct.usage, in nanoseconds."""
        return int(read_text(self._cpuacct_usage)) / 1e9

    async def watch_memory(self, near: int, most: int, crossed: Callable[[], None]) -> Callable[[], None]:
        """Have the kernel count up an event descriptor when the usage crosses ``near``, up or down."""
        event = _eventfd()
        try:
            # Waits for a grace period of RCU: 10 ms.
            await finish_in_thread(self._ask_for_events, event, "memory.usage_in_bytes", str(near))
        except BaseException:
            os.close(event)
            raise
        return _call_on(event, crossed)

    def stop_at_wall(self, reached: Callable[[], None]) -> Callable[[], None]:
        """Switch the kernel's killer off in the group, and have it count up an event descriptor instead."""
        event = _eventfd()
        try:
            self._ask_for_events(event, "memory.oom_control", "")
            write_text(self._memory / "memory.oom_control", "1")
            waiting = read_fields(self._memory / "memory.oom_control").get("under_oom", 0)
        except CgroupError:
            os.close(event)
            raise
        if waiting:
            # Since before: an earlier server did not see it.
            os.eventfd_write(event, 1)
        return _call_on(event, reached)

    def _ask_for_events(self, event: int, name: str, argument: str) -> None:
        with _kernel(f"open {self._memory / name}"):
            file = os.open(self._memory / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            write_text(self._memory / "cgroup.event_control", f"{event} {file} {argument}")
        finally:
            os.close(file)

    def pids(self) -> list[int]:
        """Union over the hierarchies: a start that was cut off can have joined some and not others."""
        found = set[int]()
        for directory in self.directories():
            found.update(read_pids(directory / "cgroup.procs"))
        return sorted(found)

    def some_pids(self) -> list[int]:
        """List those of the first hierarchy that has any: mostly one file, where there are ten."""
        for directory in self.directories():
            if found := read_pids(directory / "cgroup.procs"):
                return found
        return []

    def freeze(self) -> None:
        """Write freezer.state."""
        self._freeze("FROZEN")

    def thaw(self) -> None:
        """Write freezer.state."""
        self._freeze("THAWED")

    def kill_once(self) -> None:
        """Freeze, kill each, thaw: what is frozen cannot fork away."""
        self._freeze("FROZEN")
        try:
            for pid in self.pids():
                kill_member(pid, self._is_member)
        finally:
            self._freeze("THAWED")

    def _is_member(self, pid: int) -> bool:
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        # "4:memory:/atoll-…/i…"; inside a container the path has more in front.
        return any(line.partition(":")[2].partition(":")[2].endswith(self.path) for line in lines)

    def _freeze(self, state: str) -> None:
        with contextlib.suppress(CgroupError):
            write_text(self._freezer / "freezer.state", state)

    def _inherit_cpuset(self) -> None:
        # A new processor set is empty, and nothing can join it: fill each level from the one above.
        top = self._mount / "cpuset"
        if not top.is_dir():
            return
        level = top
        for part in self.path.strip("/").split("/"):
            parent, level = level, level / part
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not read_text(level / name).strip():
                    write_text(level / name, read_text(parent / name).strip())


def _eventfd() -> int:
    with _kernel("eventfd"):
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def _call_on(event: int, call: Callable[[], None]) -> Callable[[], None]:
    """Have ``call`` called in this loop when the descriptor counts; returns what ends that, and closes it."""
    loop = asyncio.get_running_loop()

    def called() -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(event)
        call()

    def end() -> None:
        loop.remove_reader(event)
        os.close(event)

    loop.add_reader(event, called)
    return end


@contextlib.contextmanager
def _kernel(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CgroupError(f"{what}: {error.strerror}") from error
