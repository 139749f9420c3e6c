"""Pauses and resumes in whose middle the sandbox is killed, or its machine ends."""

import asyncio
from dataclasses import replace

import pytest
from fakes.sleepers import FILES, MEMORY, MINUTE, asleep, started, until
from fakes.world import ALICE, World, outcome, turns

from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    NotFoundError,
    UnavailableError,
)
from atoll.server.domain.sandbox import EndReason, Status, Target


async def test_a_machine_that_ends_while_it_is_brought_back_costs_no_paused_sandbox(
    world: World, control: Control
) -> None:
    sandbox = await asleep(world, control)
    world.faults.hang("configure")
    resume = asyncio.create_task(outcome(control.pausing.connect(ALICE, sandbox.id, MINUTE)))
    await world.faults.reached("configure", times=2)

    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
    await turns()
    await control.settling.stop_all()

    assert isinstance(await resume, UnavailableError)
    await control.settled()
    await world.assert_agreement()
    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert back.status is Status.RUNNING
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


@pytest.mark.parametrize("verb", ["pause", "connect"])
async def test_a_kill_in_the_middle_wins(world: World, control: Control, verb: str) -> None:
    sandbox = await started(world, control)
    if verb == "connect":
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        work = asyncio.create_task(outcome(control.pausing.connect(ALICE, sandbox.id, MINUTE)))
        await until(world, sandbox.id, Status.RESUMING)
    else:
        work = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
        await until(world, sandbox.id, Status.PAUSING)

    assert (await control.kill(ALICE, sandbox.id)).status is Status.KILLED

    assert isinstance(await work, NotFoundError)
    await control.settled()
    await world.assert_agreement()


@pytest.mark.parametrize("kind", [MEMORY, FILES])
async def test_a_machine_that_ends_while_it_is_resumed_loses_nothing(
    world: World, control: Control, kind: CheckpointKind
) -> None:
    sandbox = await asleep(world, control, kind)
    world.faults.hang("configure")
    times = world.faults.passed["configure"]

    resuming = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached("configure", times=times + 1)
    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED, "its gofer was killed")

    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="ended while it was being started"):
            await resuming
    await control.settled()
    assert (await world.store.get_sandbox(sandbox.id)).status is Status.PAUSED
    await world.assert_agreement()
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert world.runtime.recall(sandbox.id)[1] == "kept"


async def test_a_machine_that_ends_when_it_is_written_down_is_kept(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:2")

    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await world.faults.reached("checkpoint:2")
    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED, "its sentry was killed")
    await asyncio.sleep(0.05)
    control.pausing.stop(sandbox.id)
    await asyncio.wait([pausing])
    await control.settled()

    assert (await world.store.get_sandbox(sandbox.id)).status is Status.PAUSED
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_no_pause_is_acknowledged_of_a_sandbox_that_is_killed(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("forget")

    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await world.faults.reached("forget")
    row = await world.store.get_sandbox(sandbox.id)
    ending = replace(row, target=Target.KILLED, status=Status.KILLING, end_reason=EndReason.KILLED)
    await world.store.replace_sandbox(row, ending)

    with pytest.raises(NotFoundError):
        await pausing
