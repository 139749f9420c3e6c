"""Guests that let those wait who start or resume them: nobody else waits with them."""

import asyncio
from datetime import timedelta

import pytest
from fakes.sleepers import MEMORY, MINUTE, asleep, started
from fakes.world import ALICE, World, outcome, small, turns, wish

from atoll.server.control.service import Control
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.domain.snapshot import Snapshot
from atoll.server.domain.upkeep import Restart, Upkeep


@pytest.fixture
def world(world: World) -> World:
    """A world where one thing is done at a time, and nobody is patient with guests."""
    world.limits = small(concurrent_starts=1, guest_patience=timedelta(0))
    return world


async def others_get_their_turn(control: Control) -> None:
    async with asyncio.timeout(10):
        other = await control.create(ALICE, wish())
        paused = await control.pausing.pause(ALICE, other.id, MEMORY)
    assert paused.status is Status.PAUSED


@pytest.mark.parametrize("place", ["listens", "configure"])
async def test_forks_whose_daemon_was_stopped_hold_nobody_up(
    world: World, control: Control, place: str
) -> None:
    sandbox = await started(world, control)
    before = world.faults.passed[place]
    world.faults.hang(place, times=3)
    fork = asyncio.create_task(outcome(control.snapshots.fork(ALICE, sandbox.id, 3, MINUTE)))
    await world.faults.reached(place, times=before + 3)

    await others_get_their_turn(control)

    world.faults.let_go(place)
    assert all(isinstance(child, Sandbox) for child in await fork)
    await control.settled()
    await world.assert_agreement()


@pytest.mark.parametrize("place", ["listens", "configure"])
async def test_a_resume_whose_daemon_was_stopped_holds_nobody_up(
    world: World, control: Control, place: str
) -> None:
    sandbox = await asleep(world, control)
    before = world.faults.passed[place]
    world.faults.hang(place)
    resume = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached(place, times=before + 1)

    await others_get_their_turn(control)

    world.faults.let_go(place)
    assert (await resume)[0].status is Status.RUNNING
    await control.settled()
    await world.assert_agreement()


async def test_a_snapshot_behind_a_question_to_its_guest_holds_nobody_up(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    world.faults.hang("probe")
    control.routing.silent(sandbox.id)
    await world.faults.reached("probe")
    snapshot = asyncio.create_task(control.snapshots.take(ALICE, sandbox.id, None, MEMORY))
    while not await world.snapshots.all_snapshots():
        await asyncio.sleep(0)
    await turns()

    await others_get_their_turn(control)

    world.faults.let_go("probe")
    assert isinstance(await snapshot, Snapshot)
    await control.settled()
    await world.assert_agreement()


async def test_a_resume_behind_a_machine_that_will_not_go_holds_nobody_up(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control, upkeep=Upkeep(restart=Restart.FROM_SNAPSHOT))
    await control.snapshots.take(ALICE, sandbox.id, None, MEMORY)
    world.faults.hang("destroy:1")
    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
    await world.faults.reached("destroy:1")
    resume = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await turns()

    await others_get_their_turn(control)

    world.faults.let_go("destroy:1")
    assert (await resume)[0].status is Status.RUNNING
    await control.settled()
    await world.assert_agreement()
