"""Checksums of what a pause wrote follow it: nobody waits for them, and they wait for who comes back."""

import pytest
from fakes.sleepers import MEMORY, MINUTE, started
from fakes.world import ALICE, World

from atoll.server.control.service import Control
from atoll.server.domain.errors import (
    UnavailableError,
)
from atoll.server.domain.sandbox import Status


async def test_the_next_server_seals_what_the_last_one_left(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.fail("seal", UnavailableError("broken"))
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        await control.settled()
    before = world.faults.passed["seal"]

    async with world.server():
        await world.faults.reached("seal", times=before + 1)


async def test_checksums_of_what_is_large_follow_and_nobody_waits(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.fail("seal", UnavailableError("the disk is slow"))

    for number in range(1, 3):
        assert (await control.pausing.pause(ALICE, sandbox.id, MEMORY)).status is Status.PAUSED
        await control.settled()
        assert world.faults.passed["seal"] == number
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    await control.settled()
    await world.assert_agreement()


async def test_checksums_are_not_computed_while_it_is_brought_back(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("seal")
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await world.faults.reached("seal")
    world.faults.fail("restore:1", UnavailableError("not now"))

    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    # The one that hung was given up; what stays paused gets its checksums all the same.
    await world.faults.reached("seal", times=2)
    await control.settled()
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)


async def test_checksums_that_begin_anew_can_be_stopped_anew(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("seal", times=2)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await world.faults.reached("seal")
    world.faults.fail("restore:1", UnavailableError("not now"))
    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    await world.faults.reached("seal", times=2)

    # Nobody else lets those go on.
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    await control.settled()
    await world.assert_agreement()


async def test_checksums_are_not_computed_while_it_comes_back_to_boot(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("seal")
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await world.faults.reached("seal")

    await control.pausing.connect(ALICE, sandbox.id, MINUTE, memory=False)

    await control.settled()
    await world.assert_agreement()
