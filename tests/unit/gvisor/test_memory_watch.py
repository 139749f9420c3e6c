"""The watch over memory, with a guest that does not do what it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
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
PAUSING = GVisorOptions(memory_refused_pause_s=0.1)


class FullCgroup:
    """A control group whose memory stays above the promise, and that counts how often that is read."""

    def __init__(self) -> None:
        self.reads = 0

    def memory_total(self) -> int:
        self.reads += 1
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
        super().__init__()
        self._fails = fails
        self.listed = 0

    def pids(self) -> list[int]:
        self.listed += 1
        if self.listed in self._fails:
            raise CgroupError("read cgroup.procs: Too many open files")
        return []


class RefusingGuest(Guest):
    """Refuses at once, and notes when it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def configure(self, machine: Machine, configuration: GuestConfiguration) -> None:
        raise AssertionError("not asked for")

    async def kill_greediest(self, machine: Machine, *, excess_bytes: int) -> list[KilledProcess]:
        self.asked.append(asyncio.get_running_loop().time())
        raise UnavailableError("the sandbox does not answer")


def machine_that_is_full(cgroup: FullCgroup, *, name: str = "a") -> Running:
    record = Record(
        sandbox_id=SandboxId("i" + name * 20),
        boot_id="b",
        runsc="runsc",
        memory_bytes=PROMISE,
        address="10.0.0.2",
        ready_at=0,
    )
    return Running(
        record=record,
        directory=cast("Directory", None),
        cgroup=cast("Cgroup", cgroup),
        sentry=cast("Pidfd", None),
        gofer=None,
    )


@asynccontextmanager
async def watching(
    guest: Guest,
    options: GVisorOptions,
    *machines: Running,
    no_answer: Callable[[Running], None] = lambda running: None,
    adopted: bool = True,
) -> AsyncIterator[None]:
    """Have machines watched, for a minute at most."""
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        watch = MemoryWatch(
            guest=guest,
            options=options,
            killed=lambda event: None,
            wall_fell=lambda running, how: None,
            no_answer=no_answer,
            spawn=lambda work, name: group.create_task(work, name=name),
        )
        for machine in machines:
            watch.add(machine, adopted=adopted)
        running: asyncio.Task[Any] = group.create_task(watch.run())
        yield
        watch.close()
        running.cancel()


async def watch_until(
    asked: int, options: GVisorOptions, cgroup: FullCgroup | None = None, *, reads: int = 0
) -> list[float]:
    """
    Watch until the guest was asked so often, and memory read so often since.

    Returns:
        When it was asked; its sentry was probed each time.
    """
    cgroup = cgroup or FullCgroup()
    guest, probed = RefusingGuest(), 0

    def no_answer(running: Running) -> None:
        nonlocal probed
        probed += 1

    async with watching(guest, options, machine_that_is_full(cgroup), no_answer=no_answer):
        await until(lambda: probed >= asked)
        before = cgroup.reads
        await until(lambda: cgroup.reads >= before + reads)
    assert len(guest.asked) == probed
    return guest.asked


async def until(so: Callable[[], bool]) -> None:
    while not so():
        await asyncio.sleep(0.001)


def pauses(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


async def test_a_guest_that_refuses_is_not_asked_and_probed_without_a_pause() -> None:
    asked = await watch_until(1, GVisorOptions(memory_refused_pause_s=3600), reads=20)

    assert len(asked) == 1


async def test_a_guest_that_refuses_is_asked_again_after_the_pause() -> None:
    asked = await watch_until(3, PAUSING)

    assert min(pauses(asked)) >= PAUSING.memory_refused_pause_s


# Listed when it is added, before the guest is asked, after it, and so on.
@pytest.mark.parametrize("fails", [(1,), (2,), (3,), tuple(range(1, 1000))])
async def test_processes_that_cannot_be_listed_keep_nobody_from_watching_memory(
    fails: tuple[int, ...],
) -> None:
    cgroup = UnreadableCgroup(*fails)

    asked = await watch_until(3, PAUSING, cgroup)

    assert min(pauses(asked)) >= PAUSING.memory_refused_pause_s
    assert cgroup.listed > 3


async def test_who_could_not_be_let_go_is_let_go_the_next_time() -> None:
    cgroup = UnreadableCgroup(1)

    await watch_until(1, GVisorOptions(memory_refused_pause_s=3600), cgroup)

    # Once in vain; then after the guest was asked, for which none had to be held back.
    assert cgroup.listed == 2


class RoomyCgroup(FullCgroup):
    """One whose memory is far below the promise until it is filled, and that the kernel may watch."""

    def __init__(self, *, told: bool) -> None:
        super().__init__()
        self.total = MIB
        self.crossed: Callable[[], None] | None = None
        self._told = told

    def memory_total(self) -> int:
        self.reads += 1
        return self.total

    memory_resident = memory_total

    async def watch_memory(self, near: int, promise: int, crossed: Callable[[], None]) -> Callable[[], None]:
        if not self._told:
            raise CgroupError("write cgroup.event_control: Operation not supported")
        self.crossed = crossed
        return lambda: None

    def fill(self) -> None:
        """Take more than was promised, which the kernel tells."""
        self.total = PROMISE + MIB
        if self.crossed is not None:
            self.crossed()


# One that is looked at now and then, and else only when the kernel tells.
SELDOM = GVisorOptions(memory_survey_s=0.002, memory_told_survey_s=3600, memory_refused_pause_s=3600)


async def test_a_machine_that_the_kernel_watches_is_hardly_looked_at_and_at_once_when_it_grows() -> None:
    told, untold, guest = RoomyCgroup(told=True), RoomyCgroup(told=False), RefusingGuest()
    machines = machine_that_is_full(told, name="a"), machine_that_is_full(untold, name="b")

    async with watching(guest, SELDOM, *machines):
        await until(lambda: untold.reads >= 50)
        looks = told.reads
        told.fill()
        await until(lambda: len(guest.asked) == 1)

    assert looks <= 2


async def test_a_machine_that_the_kernel_does_not_watch_is_looked_at_now_and_then() -> None:
    cgroup, guest = RoomyCgroup(told=False), RefusingGuest()

    async with watching(guest, SELDOM, machine_that_is_full(cgroup)):
        await until(lambda: cgroup.reads >= 5)
        cgroup.fill()
        await until(lambda: len(guest.asked) == 1)


async def test_a_machine_near_its_promise_is_looked_at_although_the_kernel_tells_nothing_more() -> None:
    cgroup, guest = RoomyCgroup(told=True), RefusingGuest()

    async with watching(guest, SELDOM, machine_that_is_full(cgroup)):
        cgroup.total = PROMISE - MIB
        await until(lambda: cgroup.reads >= 5)
        # Told when it crossed the mark, which lies below: not any more.
        cgroup.total = PROMISE + MIB
        await until(lambda: len(guest.asked) == 1)


async def test_a_machine_just_below_the_mark_is_looked_at_since_the_kernel_may_count_it_above() -> None:
    cgroup, guest = RoomyCgroup(told=True), RefusingGuest()
    cgroup.total = round(PROMISE * SELDOM.memory_near) - MIB

    async with watching(guest, SELDOM, machine_that_is_full(cgroup)), asyncio.timeout(10):
        await until(lambda: cgroup.reads >= 5)
        # It was above in the kernel's eyes all the time, which so tells nothing.
        cgroup.total = PROMISE + MIB
        await until(lambda: len(guest.asked) == 1)


class SlowCgroup(RoomyCgroup):
    """One that takes time to read, on a clock of the test's."""

    def __init__(self, passes: Callable[[], None]) -> None:
        super().__init__(told=False)
        self._passes = passes

    def memory_total(self) -> int:
        self._passes()
        return super().memory_total()


async def test_a_pass_looks_at_each_once_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, late = asyncio.get_running_loop(), [0.0]
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + late[0])

    def passes() -> None:
        late[0] += 0.002

    first, last, options = SlowCgroup(passes), SlowCgroup(passes), GVisorOptions(memory_survey_s=0.05)
    began = loop.time()
    machines = machine_that_is_full(first, name="a"), machine_that_is_full(last, name="b")

    async with watching(RefusingGuest(), options, *machines):
        await until(lambda: first.reads >= 10)
        most = (loop.time() - began) / options.memory_survey_s + 2

    assert last.reads <= first.reads <= most


class ListedCgroup(RoomyCgroup):
    """Counts how often its processes are listed."""

    listed = 0

    def pids(self) -> list[int]:
        self.listed += 1
        return []


async def test_of_a_machine_that_just_came_up_nobody_has_to_be_let_go() -> None:
    taken_up, fresh = ListedCgroup(told=True), ListedCgroup(told=True)

    async with (
        watching(RefusingGuest(), GVisorOptions(), machine_that_is_full(taken_up), adopted=True),
        watching(RefusingGuest(), GVisorOptions(), machine_that_is_full(fresh), adopted=False),
    ):
        await until(lambda: taken_up.reads > 0 and fresh.reads > 0)

    assert (taken_up.listed, fresh.listed) == (1, 0)
