"""A pause, a resume or a snapshot that fails, and then cannot be put right at once, is put right later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fakes.disks import Written, full
from fakes.world import ALICE, World, outcome, turns, wish

from atoll.server.control.machines.killing import End
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import AtollError, NotFoundError, ResourceExhaustedError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.domain.upkeep import Restart, Upkeep
from atoll.server.runtimes.fake.faults import Faults

MEMORY = CheckpointKind.MEMORY
# Longer than time goes on by itself here.
HOURS = timedelta(hours=20)
FOR_EVER = 10**6


@dataclass
class Rows:
    """Rows that cannot be written while there is no room."""

    room: bool = True

    def write(self) -> None:
        if not self.room:
            raise full()


@pytest.fixture
def rows(world: World) -> Rows:
    found = Rows()
    world.store = Written(world.store, found.write)  # type: ignore[assignment]
    world.snapshots = Written(world.snapshots, found.write)  # type: ignore[assignment]
    return found


@pytest.fixture
async def control(world: World, rows: Rows) -> AsyncIterator[Control]:
    """After the rows: what this makes is a server over them."""
    async with world.server() as opened:
        yield opened


@asynccontextmanager
async def time(world: World) -> AsyncIterator[None]:
    """Have time go on by itself."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.001)
            world.clock.advance(timedelta(seconds=1))

    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        yield
        ticking.cancel()


async def started(world: World, control: Control, **changes: Any) -> Sandbox:
    sandbox = await control.create(ALICE, wish(timeout=timedelta(hours=24), **changes))
    world.runtime.remember(sandbox.id, "kept")
    return sandbox


async def status(world: World, sandbox_id: SandboxId) -> Status:
    return (await world.store.get_sandbox(sandbox_id)).status


def fill_when(world: World, rows: Rows, place: str) -> None:
    """Have no room for rows once a place has been reached."""
    at = world.faults.at

    async def filling(passed: str) -> None:
        if passed == place:
            world.faults.at = at  # type: ignore[method-assign]
            rows.room = False
        await at(passed)

    world.faults.at = filling  # type: ignore[method-assign]


async def test_checksums_follow_a_pause_that_is_told_later_too(
    world: World, control: Control, rows: Rows
) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, "checkpoint:2")

    async with time(world):
        with pytest.raises(UnavailableError, match="neither paused nor running"):
            await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        rows.room = True
        await control.settled()

    assert await status(world, sandbox.id) is Status.PAUSED
    assert world.faults.passed["seal"] == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_a_failed_pause_is_undone_though_the_runtime_is_busy(
    world: World, control: Control, times: int
) -> None:
    sandbox = await started(world, control)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("no room"))
    world.faults.fail("observe", UnavailableError("busy"), times=times)

    async with time(world):
        with pytest.raises(ResourceExhaustedError, match="no room"):
            await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    assert await status(world, sandbox.id) is Status.RUNNING
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")
    await world.assert_agreement()
    assert (await control.pausing.pause(ALICE, sandbox.id, MEMORY)).status is Status.PAUSED


async def test_a_pause_that_is_done_is_said_when_there_is_room_for_its_row(
    world: World, control: Control, rows: Rows
) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, "checkpoint:2")

    async with time(world):
        pausing = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
        while rows.room:
            await asyncio.sleep(0)
        await turns()
        rows.room = True
        paused = await pausing

    assert paused.status is Status.PAUSED
    await world.assert_agreement()
    await control.pausing.connect(ALICE, sandbox.id, HOURS)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


@pytest.mark.parametrize(
    ("place", "settled"), [("checkpoint:1", Status.RUNNING), ("checkpoint:2", Status.PAUSED)]
)
async def test_who_waits_is_told_and_the_row_follows_when_there_is_room(
    world: World, control: Control, rows: Rows, place: str, settled: Status
) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, place)
    if settled is Status.RUNNING:
        world.faults.fail(place, ResourceExhaustedError("no room"))

    async with time(world):
        with pytest.raises(UnavailableError, match="is neither paused nor running yet") as caught:
            await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        assert "disk is full" in str(caught.value.details)
        assert await status(world, sandbox.id) is Status.PAUSING
        rows.room = True
        await control.settled()

    assert await status(world, sandbox.id) is settled
    assert world.runtime.running() == ({sandbox.id} if settled is Status.RUNNING else set())
    await world.assert_agreement()
    await control.pausing.connect(ALICE, sandbox.id, HOURS)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


@pytest.mark.parametrize("place", ["checkpoint:1", "checkpoint:2"])
async def test_who_asks_again_for_what_is_not_settled_yet_is_answered_when_it_is_paused(
    world: World, control: Control, rows: Rows, place: str
) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, place)
    if place == "checkpoint:1":
        # The first one is undone then, and another has to be made.
        world.faults.fail(place, ResourceExhaustedError("no room"))

    async with time(world):
        with pytest.raises(UnavailableError, match="neither paused nor running"):
            await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        again = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
        await turns()
        assert not again.done()
        rows.room = True
        paused = await again

    assert paused.status is Status.PAUSED
    await control.settled()
    await world.assert_agreement()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("persistent", [False, True])
async def test_what_is_whole_on_the_disk_is_kept_by_who_takes_all_down_though_no_row_says_so(
    world: World, rows: Rows, persistent: bool, force: bool
) -> None:
    async with world.server() as control:
        sandbox = await started(world, control, upkeep=Upkeep(persistent=persistent))
        fill_when(world, rows, "checkpoint:2")
        async with time(world):
            if not persistent:
                await outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY))

            await control.kill_all("taken down", force=force)

        assert await status(world, sandbox.id) is Status.PAUSING
        assert world.runtime.running() == set()
    world.renew(Faults())

    async with world.server() as control:
        await control.settled()
        if not persistent:
            await control.pausing.connect(ALICE, sandbox.id, HOURS)
        assert await status(world, sandbox.id) is Status.RUNNING
        assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_what_is_whole_on_the_disk_is_no_fall(world: World, control: Control, rows: Rows) -> None:
    """However its end is noticed: its last snapshot does not take its checkpoint's place."""
    sandbox = await started(world, control, upkeep=Upkeep(persistent=True))
    await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    world.runtime.remember(sandbox.id, "newer")
    fill_when(world, rows, "checkpoint:2")
    async with time(world):
        await outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY))
        await control.settling.stop_all()
        rows.room = True

        end = End(reason=EndReason.LOST, detail="its machine was gone, and nobody had told its end")
        await control._parts.killing.begin(sandbox.id, end)
        await control.settled()

    assert await status(world, sandbox.id) is Status.RUNNING
    assert world.runtime.recall(sandbox.id) == ("newer", "newer")


async def test_a_resume_waits_for_what_is_not_settled_yet(world: World, control: Control, rows: Rows) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, "checkpoint:2")

    async with time(world):
        await outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY))
        resuming = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, HOURS))
        await turns()
        assert not resuming.done()
        rows.room = True
        back, resumed = await resuming

    assert (back.status, resumed) == (Status.RUNNING, True)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


@pytest.mark.parametrize("arrives", [False, True])
async def test_of_memory_and_files_that_is_kept_which_the_row_names(
    world: World, control: Control, rows: Rows, arrives: bool
) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    replace_sandbox = world.store.replace_sandbox

    async def failing(old: Sandbox, new: Sandbox) -> None:
        if new.pause is not None and new.pause.kind is CheckpointKind.FILES:
            world.store.replace_sandbox = replace_sandbox  # type: ignore[method-assign]
            if arrives:
                await replace_sandbox(old, new)
            raise full()
        await replace_sandbox(old, new)

    world.store.replace_sandbox = failing  # type: ignore[method-assign]

    with pytest.raises(ResourceExhaustedError):
        await control.pausing.connect(ALICE, sandbox.id, HOURS, memory=False)

    await control.settled()
    row = await world.store.get_sandbox(sandbox.id)
    assert row.status is Status.PAUSED
    assert row.pause is not None
    assert row.pause.kind is (CheckpointKind.FILES if arrives else MEMORY)
    assert await world.checkpoints.names() == {row.pause.checkpoint}


async def test_a_kill_ends_what_is_not_settled_yet(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("no room"))
    world.faults.fail("observe", UnavailableError("busy"), times=FOR_EVER)

    async with time(world):
        with pytest.raises(UnavailableError, match="is neither paused nor running yet"):
            await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        assert (await control.kill(ALICE, sandbox.id)).status is Status.KILLED
        await control.settled()

    await world.assert_agreement()


async def test_a_machine_that_ends_before_its_pause_is_settled_is_kept_where_it_was_written_down(
    world: World, control: Control, rows: Rows
) -> None:
    sandbox = await started(world, control)
    # Written down, and not removed: then nobody knows.
    world.faults.fail("checkpoint:2", UnavailableError("stopped"))
    world.faults.fail("observe", UnavailableError("busy"), times=8)

    async with time(world):
        assert isinstance(await outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)), UnavailableError)
        world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
        await control.settled()

    assert await status(world, sandbox.id) is Status.PAUSED
    await world.assert_agreement()


async def test_a_failed_resume_is_undone_when_there_is_room_for_its_row(
    world: World, control: Control, rows: Rows
) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    fill_when(world, rows, "restore:3")

    async with time(world):
        with pytest.raises(UnavailableError, match="is neither paused nor running yet"):
            await control.pausing.connect(ALICE, sandbox.id, HOURS)
        assert await status(world, sandbox.id) is Status.RESUMING
        rows.room = True
        await control.settled()

    assert await status(world, sandbox.id) is Status.PAUSED
    await world.assert_agreement()
    await control.pausing.connect(ALICE, sandbox.id, HOURS)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


@pytest.mark.parametrize("place", ["checkpoint:1", "checkpoint:2"])
async def test_what_is_left_of_a_failed_snapshot_goes_when_there_is_room(
    world: World, control: Control, rows: Rows, place: str
) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, place)

    async with time(world):
        with pytest.raises(ResourceExhaustedError, match="disk is full"):
            await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
        rows.room = True
        await control.settled()

    assert await world.snapshots.all_snapshots() == []
    await world.assert_agreement()


async def test_a_forks_snapshot_goes_when_there_is_room(world: World, control: Control, rows: Rows) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, "restore:1")

    async with time(world):
        children = await control.snapshots.fork(ALICE, sandbox.id, 2, HOURS)
        assert all(isinstance(one, AtollError) for one in children)
        await turns()
        rows.room = True
        await control.settled()

    assert await world.snapshots.all_snapshots() == []
    assert await status(world, sandbox.id) is Status.RUNNING
    await world.assert_agreement()


async def test_what_was_ended_meanwhile_is_not_brought_back(
    world: World, control: Control, rows: Rows
) -> None:
    sandbox = await started(world, control)
    fill_when(world, rows, "checkpoint:2")

    async with time(world):
        pausing = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
        while rows.room:
            await asyncio.sleep(0)
        rows.room = True
        killed = await control.kill(ALICE, sandbox.id)
        assert isinstance(await pausing, NotFoundError)
        await control.settled()

    assert killed.status is Status.KILLED
    await world.assert_agreement()


async def test_who_fell_is_tried_again_though_no_row_could_say_that_a_try_failed(
    world: World, control: Control, rows: Rows
) -> None:
    upkeep = Upkeep(persistent=True, restart=Restart.FROM_SNAPSHOT)
    sandbox = await started(world, control, upkeep=upkeep)
    await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    world.faults.fail("restore:3", UnavailableError("no"))
    fill_when(world, rows, "restore:3")

    async with time(world):
        world.runtime.end(sandbox.id)
        # The next try comes while the row says still that it is being resumed.
        await world.faults.reached("abandon", times=world.limits.settle_tries + 2)
        rows.room = True
        await control.settled()

    assert await status(world, sandbox.id) is Status.RUNNING
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")
    await world.assert_agreement()
