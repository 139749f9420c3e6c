"""
Keeps machines within the memory that they were promised.

The host's wall ends a whole machine, so it stands above the promise, and between the two a process inside is
killed: the greediest, again and again until use is below.
The kernel says when use crosses the promise; since it does not always (a big file in the cache can hold
the usage at the wall), machines near their promise are looked at often, and all of them now and then.
What counts is what programs hold: the cache of files goes by itself.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import KilledProcess, Machine, ProcessKilledForMemory
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.ports.guest import Guest
from atoll.server.runtimes.gvisor.launch import Running
from atoll.server.runtimes.gvisor.options import GVisorOptions

log = structlog.get_logger(__name__)

# Between two looks at whether a killed process gave its memory back.
_FREED_LOOK_S = 0.005


@dataclass(kw_only=True, eq=False)
class _Watched:
    running: Running
    machine: Machine
    end_watch: Callable[[], None] = field(default=lambda: None)
    near: bool = False
    reducing: asyncio.Task[None] | None = None

    @property
    def promise(self) -> int:
        return self.running.record.memory_bytes


class MemoryWatch:
    """Watches the memory of machines."""

    def __init__(
        self,
        *,
        guest: Guest,
        options: GVisorOptions,
        killed: Callable[[ProcessKilledForMemory], None],
        wall_fell: Callable[[Running, int], None],
        no_answer: Callable[[Running], None],
    ) -> None:
        """
        Args:
            guest: asked to kill.
            options: the patience and pace.
            killed: told of each process that was killed.
            wall_fell: told when the kernel killed part of a machine; the rest is of no use.
            no_answer: told when a machine above its promise does not do what it is told.
        """
        self._guest = guest
        self._options = options
        self._killed = killed
        self._wall_fell = wall_fell
        self._no_answer = no_answer
        self._watched: dict[SandboxId, _Watched] = {}
        self._wake = asyncio.Event()

    def add(self, running: Running) -> None:
        """Begin to watch; its limits are set."""
        record = running.record
        assert record.address is not None
        machine = Machine(sandbox_id=record.sandbox_id, address=record.address)
        watched = _Watched(running=running, machine=machine)

        def crossed() -> None:
            watched.near = True
            self._wake.set()

        try:
            running.cgroup.set_memory_mark(record.memory_bytes)
            watched.end_watch = running.cgroup.watch_memory(crossed)
        except CgroupError as error:
            # Looked at all the same, only later.
            log.warning("memory is not told", sandbox_id=record.sandbox_id, error=str(error))
        self._watched[record.sandbox_id] = watched

    def remove(self, sandbox_id: SandboxId) -> None:
        """Stop watching."""
        if watched := self._watched.pop(sandbox_id, None):
            watched.end_watch()
            if watched.reducing is not None:
                watched.reducing.cancel()

    def close(self) -> None:
        """Stop watching all."""
        for sandbox_id in list(self._watched):
            self.remove(sandbox_id)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Look, for ever."""
        loop = asyncio.get_running_loop()
        next_survey = loop.time()
        while True:
            survey = loop.time() >= next_survey
            if survey:
                next_survey = loop.time() + self._options.memory_survey_s
            for watched in [each for each in self._watched.values() if survey or each.near]:
                self._look(watched, group)
            near = any(watched.near for watched in self._watched.values())
            pause = self._options.memory_look_s if near else max(0, next_survey - loop.time())
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _look(self, watched: _Watched, group: asyncio.TaskGroup) -> None:
        cgroup = watched.running.cgroup
        sandbox_id = watched.machine.sandbox_id
        try:
            # One small file for most of them; the cache is in it, so it is never too low.
            if cgroup.memory_total() < watched.promise * self._options.memory_near:
                watched.near = False
                return
            kills = cgroup.out_of_memory_kills()
            resident = cgroup.memory_resident()
        except CgroupError as error:
            # Being removed, or ended: the others see to that.
            log.debug("memory cannot be read", sandbox_id=sandbox_id, error=str(error))
            return
        if kills:
            self.remove(sandbox_id)
            self._wall_fell(watched.running, kills)
            return
        watched.near = resident > watched.promise * self._options.memory_near
        if resident > watched.promise and watched.reducing is None:
            watched.reducing = group.create_task(self._reduce(watched), name=f"reduce {sandbox_id}")

    async def _reduce(self, watched: _Watched) -> None:
        try:
            for _ in range(self._options.memory_kills_a_look):
                before = watched.running.cgroup.memory_resident()
                if before <= watched.promise:
                    return
                victim = await self._guest.kill_greediest(watched.machine)
                if victim.pid == 0:
                    log.warning("memory is above the promise, and nothing to kill", **_facts(watched, before))
                    return
                self._tell(watched, victim, before)
                await self._freed(watched, before)
        except AtollError as error:
            log.warning("a guest does not free memory", **_facts(watched, None), error=str(error))
            self._no_answer(watched.running)
        except CgroupError as error:
            log.debug("memory cannot be read", **_facts(watched, None), error=str(error))
        finally:
            watched.reducing = None

    def _tell(self, watched: _Watched, victim: KilledProcess, resident: int) -> None:
        log.info(
            "process killed for memory",
            **_facts(watched, resident),
            pid=victim.pid,
            command=victim.command,
            victim_bytes=victim.resident_bytes,
        )
        self._killed(
            ProcessKilledForMemory(
                sandbox_id=watched.machine.sandbox_id,
                pid=victim.pid,
                command=victim.command,
                resident_bytes=victim.resident_bytes,
            )
        )

    async def _freed(self, watched: _Watched, before: int) -> None:
        """Wait until memory comes back: else the next one is killed for what the last one still holds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.memory_kill_pause_s):
                # The kernel tells nobody when memory comes back.
                while watched.promise < watched.running.cgroup.memory_resident() >= before:  # noqa: ASYNC110
                    await asyncio.sleep(_FREED_LOOK_S)


def _facts(watched: _Watched, resident: int | None) -> dict[str, object]:
    return {"sandbox_id": watched.machine.sandbox_id, "promise": watched.promise, "resident": resident}
