"""
The disk gets full at every write of every verb: who asks is told so, nobody loses anything, and when there is
room again all is put right without a restart.

Every write of a fake is a point: of a start, a checkpoint, a restore, and of a row. Rows have some room of
their own for longer (the database keeps it free), so each point is tried with them and without them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.disks import Disk, Written
from fakes.world import ALICE, World, outcome, wish

from atoll.server.control.service import Control
from atoll.server.control.warm.pool import PoolLimits
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.keys import KeyKind
from atoll.server.domain.sandbox import Sandbox, Status
from atoll.server.domain.snapshot import SnapshotId

OPERATOR = replace(ALICE, kind=KeyKind.HOME)
HOURS = timedelta(hours=20)
MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES
# More than the scripts here have; tests make sure of it.
MOST_WRITES = {False: 40, True: 70}
MOST_REFILL_WRITES = 17
# After the verb that finds it full, so many more are asked for before there is room.
VERBS_REFUSED = 2


@dataclass
class Client:
    """Asks for each verb once, and remembers what it was told."""

    world: World
    control: Control
    disk: Disk
    rows_too: bool
    running: set[SandboxId] = field(default_factory=set)
    paused: set[SandboxId] = field(default_factory=set)
    killed: set[SandboxId] = field(default_factory=set)
    # Told "not yet" by a pause, or by a kill, whose row could not be written.
    unsettled: set[SandboxId] = field(default_factory=set)
    ending: set[SandboxId] = field(default_factory=set)
    snapshots: set[SnapshotId] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)

    async def work(self) -> None:
        """Every verb once, and those that a pause may go before."""
        first = await self.create()
        await self.pause(first, MEMORY)
        await self.resume(first)
        await self.fork(first)
        snapshot = await self.snapshot(first)
        await self.create(template=snapshot)
        second = await self.create()
        await self.pause(second, FILES)
        await self.resume(second)
        await self.kill(first)
        await self.pause(second, MEMORY)
        await self.kill(second)

    async def ask(self, verb: str, call: Awaitable[Any]) -> Any:
        """Ask; None: it was refused."""
        answer = await outcome(call)
        if isinstance(answer, AtollError):
            self.check_error(verb, answer)
        # The one whose undoing goes on behind it, too.
        if self.disk.refused:
            self.refused.append(verb)
        if len(self.refused) > VERBS_REFUSED:
            self.disk.free()
        return None if isinstance(answer, AtollError) else answer

    def check_error(self, verb: str, error: AtollError) -> None:
        assert self.disk.refused, f"{verb} failed on a disk with room: {error!r}"
        said = f"{error} {error.details}"
        if self.rows_too and isinstance(error, FailedPreconditionError):
            # What the verb before it has left, which is settled later.
            assert "is pausing, not running" in said
            return
        assert isinstance(error, ResourceExhaustedError | UnavailableError), f"{verb}: {error!r}"
        assert "disk is full" in said, f"{verb} does not say why: {said}"

    async def create(self, template: SnapshotId | None = None) -> SandboxId | None:
        sandbox: Sandbox | None = await self.ask(
            "create", self.control.create(ALICE, wish(template=template or "base", timeout=HOURS))
        )
        if sandbox is None:
            return None
        if template is None:
            self.world.runtime.remember(sandbox.id, "kept")
        self.running.add(sandbox.id)
        return sandbox.id

    async def pause(self, sandbox_id: SandboxId | None, kind: CheckpointKind) -> None:
        if sandbox_id not in self.running:
            return
        self.running.discard(sandbox_id)
        if await self.ask("pause", self.control.pausing.pause(ALICE, sandbox_id, kind)):
            self.paused.add(sandbox_id)
            return
        if self.rows_too:
            self.unsettled.add(sandbox_id)
        else:
            self.running.add(sandbox_id)
            await self.check_runs(sandbox_id)

    async def resume(self, sandbox_id: SandboxId | None) -> None:
        if sandbox_id not in self.paused:
            return
        if await self.ask("resume", self.control.pausing.connect(ALICE, sandbox_id, HOURS)):
            self.paused.discard(sandbox_id)
            self.running.add(sandbox_id)
        elif not self.rows_too:
            assert await self.status(sandbox_id) is Status.PAUSED

    async def fork(self, sandbox_id: SandboxId | None) -> None:
        if sandbox_id not in self.running:
            return
        children = await self.ask("fork", self.control.snapshots.fork(ALICE, sandbox_id, 2, HOURS))
        for child in children or ():
            if isinstance(child, AtollError):
                self.check_error("fork's child", child)
            else:
                assert self.world.runtime.recall(child.id) == ("kept", "kept")
                self.running.add(child.id)
        if not self.rows_too:
            await self.check_runs(sandbox_id)

    async def snapshot(self, sandbox_id: SandboxId | None) -> SnapshotId | None:
        if sandbox_id not in self.running:
            return None
        taken = await self.ask("snapshot", self.control.snapshots.take(ALICE, sandbox_id, None, MEMORY))
        if not self.rows_too:
            await self.check_runs(sandbox_id)
        if taken is None:
            return None
        self.snapshots.add(taken.id)
        return SnapshotId(taken.id)

    async def kill(self, sandbox_id: SandboxId | None) -> None:
        if sandbox_id is None:
            return
        for known in (self.running, self.paused, self.unsettled):
            known.discard(sandbox_id)
        if await self.ask("kill", self.control.kill(ALICE, sandbox_id)):
            self.killed.add(sandbox_id)
        else:
            assert self.rows_too, "a kill writes a row only"
            self.ending.add(sandbox_id)

    async def status(self, sandbox_id: SandboxId) -> Status:
        return (await self.world.store.get_sandbox(sandbox_id)).status

    async def check_runs(self, sandbox_id: SandboxId) -> None:
        assert await self.status(sandbox_id) is Status.RUNNING
        assert sandbox_id in self.world.runtime.running()
        assert self.world.runtime.recall(sandbox_id)[1] == "kept"

    async def check(self) -> None:
        """Look whether all is as it was told, now that there is room, and work with it."""
        await self.world.assert_agreement()
        for sandbox_id in self.running:
            assert await self.status(sandbox_id) is Status.RUNNING
        for sandbox_id in self.killed:
            assert await self.status(sandbox_id) is Status.KILLED
        assert {one.id for one in await self.world.snapshots.all_snapshots()} == self.snapshots
        for sandbox_id in self.ending:
            # Not begun, or done by now.
            if await self.status(sandbox_id) is not Status.KILLED:
                await self.control.kill(ALICE, sandbox_id)
        for sandbox_id in self.paused:
            assert await self.status(sandbox_id) is Status.PAUSED
        for sandbox_id in self.paused | self.unsettled:
            await self.control.pausing.connect(ALICE, sandbox_id, HOURS)
        for sandbox_id in self.running | self.paused | self.unsettled:
            assert self.world.runtime.recall(sandbox_id)[1] == "kept"
            await self.control.pausing.pause(ALICE, sandbox_id, MEMORY)
            await self.control.pausing.connect(ALICE, sandbox_id, HOURS)
        await self.control.create(ALICE, wish(timeout=HOURS))
        await self.control.settled()
        await self.world.assert_agreement()


@asynccontextmanager
async def client(world: World, *, full_at: int | None, rows_too: bool) -> AsyncIterator[Client]:
    """Have a server on a disk that is full from a write on, and time that goes on by itself."""
    disk = Disk(full_at=full_at)
    world.renew(disk)
    if rows_too:
        world.store = Written(world.store, disk.write)  # type: ignore[assignment]
        world.snapshots = Written(world.snapshots, disk.write)  # type: ignore[assignment]
    async with world.server() as control, asyncio.TaskGroup() as group:
        ticking = group.create_task(_tick(world))
        yield Client(world, control, disk, rows_too)
        ticking.cancel()


async def _tick(world: World) -> None:
    while True:
        await asyncio.sleep(0.001)
        world.clock.advance(timedelta(seconds=1))


@pytest.mark.parametrize("rows_too", [False, True])
async def test_the_script_has_no_more_writes_than_are_tried(world: World, rows_too: bool) -> None:
    async with client(world, full_at=None, rows_too=rows_too) as asking:
        await asking.work()
        await asking.control.settled()
        writes = asking.disk.writes
        await asking.check()

    assert (len(asking.running), len(asking.killed), len(asking.snapshots)) == (3, 2, 1)
    assert MOST_WRITES[rows_too] - 8 < writes < MOST_WRITES[rows_too], writes


@pytest.mark.parametrize(
    ("rows_too", "write"), [(too, number) for too, most in MOST_WRITES.items() for number in range(1, most)]
)
async def test_a_disk_that_is_full_at_any_write_costs_nothing(
    world: World, rows_too: bool, write: int
) -> None:
    async with client(world, full_at=write, rows_too=rows_too) as asking:
        await asking.work()
        asking.disk.free()
        await asking.control.settled()
        await asking.check()


@pytest.fixture
def pooled(tmp_path: Path) -> World:
    return World(tmp_path, pool=PoolLimits(least=2, most=2, memory_bytes=10**9, least_free_bytes=0))


@pytest.mark.parametrize("write", range(1, MOST_REFILL_WRITES))
async def test_a_pool_is_filled_when_there_is_room_again(pooled: World, write: int) -> None:
    async with client(pooled, full_at=write, rows_too=False) as asking:
        await until(lambda: bool(asking.disk.refused) or len(waiting(asking)) == 2)
        # Claimed, or made with what room there was, or refused by name.
        sandbox = await asking.create()
        assert sandbox is not None or asking.disk.refused
        await until(lambda: bool(asking.disk.refused) or len(waiting(asking)) == 2)
        if asking.disk.refused:
            await until(lambda: "disk is full" in problems(asking) or len(waiting(asking)) == 2)
        asking.disk.free()
        await until(lambda: len(waiting(asking)) == 2 and not problems(asking))
        await asking.control.settled()

        assert pooled.runtime.running() == waiting(asking) | asking.running
        assert set(await pooled.runtime.remains()) == pooled.runtime.running()
        (warm,) = await pooled.checkpoints.names()
        assert warm.startswith("warm-")
        there = waiting(asking)
        assert await asking.create() in there


async def test_a_refill_has_no_more_writes_than_are_tried(pooled: World) -> None:
    async with client(pooled, full_at=None, rows_too=False) as asking:
        await until(lambda: len(waiting(asking)) == 2)
        assert await asking.create()
        await until(lambda: len(waiting(asking)) == 2)

    assert asking.disk.writes == MOST_REFILL_WRITES - 1


def waiting(asking: Client) -> set[SandboxId]:
    return {one for status in asking.control.pool.statuses(OPERATOR) for one in status.ids}


def problems(asking: Client) -> str:
    return " ".join(status.problem or "" for status in asking.control.pool.statuses(OPERATOR)).strip()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)
