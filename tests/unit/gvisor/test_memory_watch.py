"""The watch over memory, with a guest that does not do what it is told."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from atoll.server.domain.errors import UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.machine import GuestConfiguration, KilledProcess, Machine
from atoll.server.host.cgroup_base import Cgroup, CgroupError
from atoll.server.host.pidfd import Pidfd
from atoll.server.ports.guest import Guest
from atoll.server.runtimes.gvisor.memory import MemoryWatch
from atoll.server.runtimes.gvisor.options import MIB, GVisorOptions
from atoll.server.runtimes.gvisor.places import Directory
from atoll.server.runtimes.gvisor.record import Record
from atoll.server.runtimes.gvisor.running import Running

PROMISE = 512 * MIB


class FullCgroup:
    """A control group whose memory stays above the promise."""

    def memory_total(self) -> int:
        return PROMISE + MIB

    memory_resident = memory_total

    def out_of_memory_kills(self) -> int:
        return 0

    def pids(self) -> list[int]:
        return []

    def stop_at_wall(self, at_wall: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    async def watch_memory(self, near: int, promise: int, crossed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class UnreadableCgroup(FullCgroup):
    """One whose processes cannot be listed some of the times."""

    def __init__(self, *fails: int) -> None:
        self._fails = fails
        self.listed = 0

    def pids(self) -> list[int]:
        self.listed += 1
        if self.listed in self._fails:
            raise CgroupError("read cgroup.procs: Too many open files")
        return []


class RefusingGuest(Guest):
    """Refuses at once."""

    def __init__(self) -> None:
        self.asked = 0

    async def configure(self, machine: Machine, configuration: GuestConfiguration) -> None:
        raise AssertionError("not asked for")

    async def kill_greediest(self, machine: Machine, *, excess_bytes: int) -> list[KilledProcess]:
        self.asked += 1
        raise UnavailableError("the sandbox does not answer")


def machine_that_is_full(directory: Directory, cgroup: FullCgroup) -> Running:
    record = Record(
        sandbox_id=SandboxId("i" + "a" * 20),
        boot_id="b",
        runsc="runsc",
        memory_bytes=PROMISE,
        address="10.0.0.2",
        ready_at=0,
    )
    return Running(
        record=record,
        directory=directory,
        cgroup=cast("Cgroup", cgroup),
        sentry=cast("Pidfd", None),
        gofer=None,
    )


async def ask_for(
    seconds: float, options: GVisorOptions, cgroup: FullCgroup | None = None
) -> tuple[int, int]:
    """Watch for so long; returns how often the guest was asked, and its sentry probed."""
    guest, probed = RefusingGuest(), 0

    def no_answer(running: Running) -> None:
        nonlocal probed
        probed += 1

    async with asyncio.TaskGroup() as group:
        watch = MemoryWatch(
            guest=guest,
            options=options,
            killed=lambda event: None,
            wall_fell=lambda running, how: None,
            no_answer=no_answer,
            spawn=lambda work, name: group.create_task(work, name=name),
        )
        watch.add(machine_that_is_full(cast("Directory", None), cgroup or FullCgroup()))
        running: asyncio.Task[Any] = group.create_task(watch.run())
        await asyncio.sleep(seconds)
        watch.close()
        running.cancel()
    return guest.asked, probed


async def test_a_guest_that_refuses_is_not_asked_and_probed_without_a_pause() -> None:
    asked, probed = await ask_for(0.5, GVisorOptions())

    assert (asked, probed) == (1, 1)


async def test_a_guest_that_refuses_is_asked_again_after_the_pause() -> None:
    asked, probed = await ask_for(0.6, GVisorOptions(memory_refused_pause_s=0.1))

    assert 3 <= asked == probed <= 7


# Listed when it is added, before the guest is asked, after it, and so on.
@pytest.mark.parametrize("fails", [(1,), (2,), (3,), tuple(range(1, 1000))])
async def test_processes_that_cannot_be_listed_keep_nobody_from_watching_memory(
    fails: tuple[int, ...],
) -> None:
    cgroup = UnreadableCgroup(*fails)

    asked, probed = await ask_for(0.6, GVisorOptions(memory_refused_pause_s=0.1), cgroup)

    assert 3 <= asked == probed <= 7
    assert cgroup.listed > 3


async def test_who_could_not_be_let_go_is_let_go_the_next_time() -> None:
    cgroup = UnreadableCgroup(1)

    await ask_for(0.1, GVisorOptions(), cgroup)

    # Once in vain; then after the guest was asked, for which none had to be held back.
    assert cgroup.listed == 2
