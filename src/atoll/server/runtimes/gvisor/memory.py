"""
Keeps machines within the memory that they were promised.

The host's wall ends a whole machine, so it stands above the promise, and between the two processes inside are
killed: as many of the greediest as hold what is too much, again and again until use is below.
The kernel says when use comes near the promise; from there on a machine is looked at before it could have
reached it, again and again, since the kernel says so only at a crossing (a big file in the cache can hold the
use above for good). The others are looked at now and then, all in one pass; seldom those that the kernel
watches and that are well below.
What counts is what programs hold: the cache of files goes by itself.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from atoll.server.domain.errors import AtollError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import KilledProcess, Machine, ProcessKilledForMemory
from atoll.server.host.cgroup_base import CgroupError
from atoll.server.host.pidfd import read_start_time
from atoll.server.host.scheduling import let_run, let_wait
from atoll.server.host.threads import finish_in_thread
from atoll.server.ports.guest import Guest
from atoll.server.runtimes.gvisor.options import GVisorOptions
from atoll.server.runtimes.gvisor.running import Running

log = structlog.get_logger(__name__)

# Between two looks at whether a killed process gave its memory back.
_FREED_LOOK_S = 0.005
# The kernel (version 1) counts in steps, of up to 1 MB for each processor: who has come just below the mark
# may still be above it in its eyes, and crosses nothing when it grows. Below this part of it that is told.
_SURELY_TOLD = 0.75
# So much more after a kill is not the killed one's last page.
_GROWTH_BYTES = 8 * 1024 * 1024


@dataclass(kw_only=True, eq=False)
class _Watched:
    running: Running
    machine: Machine
    ends: list[Callable[[], None]] = field(default_factory=list)
    steps: int = 0
    next_look: float = 0
    # Whether the kernel says when use comes near the promise.
    told: bool = False
    # It refused: until then only the wall has it asked again.
    refused_until: float = 0
    held_back: bool
    asking: asyncio.Task[None] | None = None
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
        wall_fell: Callable[[Running, str], None],
        no_answer: Callable[[Running], None],
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        """
        Args:
            guest: asked to kill.
            options: the patience and pace.
            killed: told of each process that was killed.
            wall_fell: told when a machine met its end at the wall, and how; what is left of it is of no use.
            no_answer: told when a machine above its promise does not do what it is told.
            spawn: starts a task, under a name.
        """
        self._guest = guest
        self._options = options
        self._killed = killed
        self._wall_fell = wall_fell
        self._no_answer = no_answer
        self._spawn = spawn
        self._watched: dict[SandboxId, _Watched] = {}
        self._wake = asyncio.Event()

    def add(self, running: Running, *, adopted: bool) -> None:
        """
        Begin to watch; its limits are set.

        Args:
            running: the machine.
            adopted: it is an earlier server's, which may have been killed while commands waited for guestd.
        """
        record = running.record
        assert record.address is not None
        machine = Machine(sandbox_id=record.sandbox_id, address=record.address)
        watched = _Watched(running=running, machine=machine, held_back=adopted)
        self._watched[record.sandbox_id] = watched
        watched.asking = self._spawn(self._ask_kernel(watched), f"ask for events of {record.sandbox_id}")

    def is_short(self, sandbox_id: SandboxId) -> bool:
        """Say whether a machine is above its promise right now: what ends then, ends for lack of memory."""
        watched = self._watched.get(sandbox_id)
        return watched is not None and (watched.reducing is not None or watched.steps > 0)

    def remove(self, sandbox_id: SandboxId) -> None:
        """Stop watching."""
        if watched := self._watched.pop(sandbox_id, None):
            for end in watched.ends:
                end()
            for task in (watched.asking, watched.reducing):
                if task is not None:
                    task.cancel()

    def close(self) -> None:
        """Stop watching all."""
        for sandbox_id in list(self._watched):
            self.remove(sandbox_id)

    async def run(self) -> None:
        """Look, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            for watched in list(self._watched.values()):
                if watched.next_look <= now:
                    watched.next_look = now + self._look(watched, now)
            self._wake.clear()
            # A machine that comes meanwhile is not near anything yet.
            soonest = min((watched.next_look for watched in self._watched.values()), default=math.inf)
            pause = min(soonest - loop.time(), self._options.memory_survey_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0, pause)):
                    await self._wake.wait()

    async def _ask_kernel(self, watched: _Watched) -> None:
        def crossed() -> None:
            watched.next_look = 0
            self._wake.set()

        self._let_go(watched)
        near = round(watched.promise * self._options.memory_near)
        cgroup = watched.running.cgroup
        try:
            watched.ends.append(cgroup.stop_at_wall(partial(self._at_wall, watched)))
            end = await cgroup.watch_memory(near, watched.promise, crossed)
        except CgroupError as error:
            # Looked at all the same, only later.
            log.warning("memory is not told", sandbox_id=watched.machine.sandbox_id, error=str(error))
            return
        if self._watched.get(watched.machine.sandbox_id) is watched:
            watched.ends.append(end)
            # What was crossed before this is not told: the next look, which finds it, is still a near one.
            watched.told = True
        else:
            end()

    def _look(self, watched: _Watched, now: float) -> float:
        """Read a machine's memory, begin what has to be done, and return the seconds to the next look."""
        cgroup, options = watched.running.cgroup, self._options
        try:
            # One small file for most of them; the cache is in it, so it is never too low.
            total, near = cgroup.memory_total(), watched.promise * options.memory_near
            if total < near:
                surely = watched.told and total < near * _SURELY_TOLD
                pause = options.memory_told_survey_s if surely else options.memory_survey_s
                # To moments that are the same for all: then one pass does for many.
                return pause - now % pause
            kills = cgroup.out_of_memory_kills()
            resident = cgroup.memory_resident()
        except CgroupError as error:
            # Being removed, or ended: the others see to that.
            log.debug("memory cannot be read", sandbox_id=watched.machine.sandbox_id, error=str(error))
            return options.memory_survey_s
        if kills:
            self._wall_fell(watched.running, f"the kernel killed {kills} processes")
        elif self._may_reduce(watched) and (resident > watched.promise or watched.steps):
            self._begin_to_reduce(watched)
        pause = (watched.promise - resident) / options.memory_growth
        return min(max(pause, options.memory_look_s), options.memory_survey_s)

    def _may_reduce(self, watched: _Watched) -> bool:
        return watched.reducing is None and watched.refused_until <= asyncio.get_running_loop().time()

    def _at_wall(self, watched: _Watched) -> None:
        """Let go on what waits at the wall, so that guestd can do its work; a last time, the machine ends."""
        options = self._options
        watched.steps += 1
        if watched.steps > options.memory_wall_steps:
            self._wall_fell(watched.running, "it needed more memory again and again")
            return
        log.info("the memory wall is set higher", **_facts(watched, None), step=watched.steps)
        if watched.reducing is None:
            self._begin_to_reduce(watched)
        with contextlib.suppress(CgroupError):
            watched.running.cgroup.set_memory_wall(self._wall(watched))

    def _wall(self, watched: _Watched) -> int:
        above = self._options.memory_reserve_bytes + watched.steps * self._options.memory_wall_step_bytes
        return watched.promise + above

    async def _set_wall_back(self, watched: _Watched) -> None:
        """Undo the steps; the cache of files has to go for it, which takes time, or fails for now."""
        steps, watched.steps = watched.steps, 0
        try:
            await finish_in_thread(watched.running.cgroup.set_memory_wall, self._wall(watched))
        except CgroupError as error:
            # At the wall meanwhile there are as many steps as it has.
            watched.steps = max(steps, watched.steps)
            log.debug("the memory wall stays higher", **_facts(watched, None), error=str(error))

    def _begin_to_reduce(self, watched: _Watched) -> None:
        self._hold_back(watched)
        name = f"reduce {watched.machine.sandbox_id}"
        watched.reducing = self._spawn(self._reduce(watched), name)

    async def _reduce(self, watched: _Watched) -> None:
        cgroup = watched.running.cgroup
        try:
            for _ in range(self._options.memory_kills_a_look):
                before = cgroup.memory_resident()
                if before <= watched.promise:
                    if watched.steps:
                        await self._set_wall_back(watched)
                    return
                self._hold_back(watched)
                victims = await self._guest.kill_greediest(
                    watched.machine, excess_bytes=before - watched.promise
                )
                if not victims:
                    log.info("memory is above the promise, and nothing to kill", **_facts(watched, before))
                    await self._freed(watched)
                    return
                for victim in victims:
                    self._tell(watched, victim, before)
                await self._freed(watched)
        except AtollError as error:
            log.warning("a guest does not free memory", **_facts(watched, None), error=str(error))
            pause = self._options.memory_refused_pause_s
            watched.refused_until = asyncio.get_running_loop().time() + pause
            self._no_answer(watched.running)
        except CgroupError as error:
            log.debug("memory cannot be read", **_facts(watched, None), error=str(error))
        finally:
            watched.reducing = None
            self._let_go(watched)

    def _hold_back(self, watched: _Watched) -> None:
        """Have commands wait for guestd: else those that take memory keep it from the processor."""
        if watched.held_back:
            return
        try:
            let_wait(_commands(watched.running))
        except CgroupError as error:
            log.warning("commands do not wait for guestd", **_facts(watched, None), error=str(error))
            return
        watched.held_back = True

    def _let_go(self, watched: _Watched) -> None:
        if watched.held_back:
            try:
                let_run(_commands(watched.running))
            except CgroupError as error:
                # Still to be let go, at the end of the next reduction.
                log.warning("commands wait for guestd longer", **_facts(watched, None), error=str(error))
                return
            watched.held_back = False

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

    async def _freed(self, watched: _Watched) -> None:
        """
        Wait until memory comes back: else the next process is killed for what the last one still holds.

        When it grows instead, there are more that take it.
        """
        cgroup = watched.running.cgroup
        most = cgroup.memory_resident() + _GROWTH_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.memory_kill_pause_s):
                # The kernel tells nobody when memory comes back.
                while watched.promise < cgroup.memory_resident() < most:  # noqa: ASYNC110
                    await asyncio.sleep(_FREED_LOOK_S)


def _commands(running: Running) -> list[int]:
    """List the processes that run commands: all but gVisor's own, and those that run guestd."""
    ready_at = running.record.ready_at
    return [pid for pid in running.cgroup.pids() if (read_start_time(pid) or 0) > ready_at]


def _facts(watched: _Watched, resident: int | None) -> dict[str, object]:
    return {"sandbox_id": watched.machine.sandbox_id, "promise": watched.promise, "resident": resident}
