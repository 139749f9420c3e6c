"""Snapshots on a schedule: when they are taken, which are kept, and what is said of those that cannot be."""

import asyncio
from datetime import timedelta

import pytest
from fakes.world import ALICE, World, turns, wish

from atoll.server.control.requests import CreateSandbox
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import InvalidArgumentError, ResourceExhaustedError
from atoll.server.domain.events import EventType
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.keys import DEFAULT_TEAM
from atoll.server.domain.logs import life
from atoll.server.domain.sandbox import EndReason, Sandbox
from atoll.server.domain.snapshot import Snapshot
from atoll.server.domain.upkeep import Restart, Upkeep
from atoll.server.ports.events import EventQuery
from atoll.server.ports.snapshots import SnapshotQuery
from atoll.server.stores.events import SqliteEvents

MINUTE = timedelta(minutes=1)


def scheduled(**changes: object) -> CreateSandbox:
    upkeep = Upkeep(persistent=True, snapshot_every=MINUTE, keep_snapshots=2)
    return wish(upkeep=upkeep, **changes)


async def taken(world: World, sandbox_id: SandboxId) -> list[Snapshot]:
    return list(
        await world.snapshots.list_snapshots(SnapshotQuery(team_id=DEFAULT_TEAM, sandbox_id=sandbox_id))
    )


async def pass_time(world: World, sandbox_id: SandboxId, by: timedelta = MINUTE) -> Sandbox:
    """Turn the clock, and wait until what was due then has been done."""
    before = await world.store.get_sandbox(sandbox_id)
    assert before.snapshot_due is not None
    await world.clock.slept_until(before.snapshot_due)
    world.clock.advance(by)
    async with asyncio.timeout(10):
        while (row := await world.store.get_sandbox(sandbox_id)).snapshot_due == before.snapshot_due:
            await asyncio.sleep(0)
    return row


async def test_the_newest_of_a_schedule_are_kept_and_all_that_a_person_took(
    world: World, control: Control
) -> None:
    sandbox = await control.create(ALICE, scheduled())
    named = await control.snapshots.take(ALICE, sandbox.id, "mine", CheckpointKind.MEMORY)
    nameless = await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.FILES)

    for _ in range(4):
        row = await pass_time(world, sandbox.id)
        assert row.snapshot_due == world.clock.now() + MINUTE
        assert row.snapshot_skip is None
    await control.settled()

    found = await taken(world, sandbox.id)
    assert [one.created_at for one in found if one.scheduled] == [
        world.clock.now(),
        world.clock.now() - MINUTE,
    ]
    assert {one.id for one in found if not one.scheduled} == {named.id, nameless.id}
    assert {one.kind for one in found if one.scheduled} == {CheckpointKind.MEMORY}
    await world.assert_agreement()


async def test_a_full_disk_skips_one_and_the_owner_is_told(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, scheduled())
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"))

    row = await pass_time(world, sandbox.id)

    assert await taken(world, sandbox.id) == []
    (line,) = [line for line in life(row) if line.message == "scheduled snapshot not taken"]
    assert line.fields["reason"] == "The host's disk is full"
    query = EventQuery(team_id=DEFAULT_TEAM, sandbox_id=sandbox.id, limit=10)
    newest = (await SqliteEvents(world.database).list_events(query))[0]
    assert newest.type is EventType.UPDATED
    assert newest.data == {"snapshot_skipped": "The host's disk is full"}

    row = await pass_time(world, sandbox.id)
    assert row.snapshot_skip is None
    assert len(await taken(world, sandbox.id)) == 1
    await control.settled()
    await world.assert_agreement()


async def test_who_falls_after_many_were_skipped_waits_for_the_next_no_longer_than_ever(
    world: World, control: Control
) -> None:
    upkeep = Upkeep(persistent=True, snapshot_every=MINUTE, restart=Restart.FROM_SNAPSHOT)
    sandbox = await control.create(ALICE, wish(upkeep=upkeep))
    await pass_time(world, sandbox.id)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"), times=10)
    for _ in range(10):
        await pass_time(world, sandbox.id)

    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
    async with asyncio.timeout(10):
        while (back := await world.store.get_sandbox(sandbox.id)).generation != 2 or back.pause is not None:
            await asyncio.sleep(0)

    assert back.snapshot_due is not None
    assert back.snapshot_due <= world.clock.now() + MINUTE
    await control.settled()
    await world.assert_agreement()


async def test_who_is_paused_is_left_alone_and_has_the_rest_of_its_time_afterwards(
    world: World, control: Control
) -> None:
    sandbox = await control.create(ALICE, scheduled())
    world.clock.advance(MINUTE / 4)
    await control.pausing.pause(ALICE, sandbox.id, CheckpointKind.MEMORY)

    world.clock.advance(10 * MINUTE)
    await turns()
    await control.settled()
    assert await taken(world, sandbox.id) == []

    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert back.snapshot_due == world.clock.now() + MINUTE * 3 / 4
    await pass_time(world, sandbox.id)
    assert len(await taken(world, sandbox.id)) == 1
    await control.settled()
    await world.assert_agreement()


async def test_pauses_put_no_snapshot_off_for_longer_than_they_last(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, scheduled())
    due = []
    for _ in range(3):
        world.clock.advance(0.4 * MINUTE)
        await control.pausing.pause(ALICE, sandbox.id, CheckpointKind.MEMORY)
        world.clock.advance(10 * MINUTE)
        back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
        assert back.snapshot_due is not None
        due.append(back.snapshot_due - world.clock.now())
        await control.settled()

    # The third time it had come while it ran, or was being paused.
    assert due[:2] == [0.6 * MINUTE, 0.2 * MINUTE]
    async with asyncio.timeout(10):
        while not await taken(world, sandbox.id):
            await asyncio.sleep(0)
    await control.settled()
    await world.assert_agreement()


@pytest.mark.parametrize(
    "upkeep",
    [
        Upkeep(snapshot_every=timedelta(seconds=1)),
        Upkeep(keep_snapshots=0),
        Upkeep(keep_snapshots=1000),
        Upkeep(idle_timeout=timedelta(0)),
    ],
)
async def test_what_cannot_be_kept_is_refused(control: Control, upkeep: Upkeep) -> None:
    with pytest.raises(InvalidArgumentError):
        await control.create(ALICE, wish(upkeep=upkeep))
