"""Traffic for a sandbox that does not run: whom it wakes, and what the edge is told meanwhile."""

import asyncio

import pytest
from fakes.sleepers import MEMORY, MINUTE, asleep, started, until
from fakes.world import ALICE, World, outcome

from atoll.server.control.service import Control
from atoll.server.domain.errors import (
    FailedPreconditionError,
    NotFoundError,
)
from atoll.server.domain.sandbox import OnDeadline, Status


async def test_traffic_wakes_those_that_want_it_once(world: World, control: Control) -> None:
    sandbox = await asleep(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE, auto_resume=True)

    routes = await asyncio.gather(*(control.routing.route(sandbox.id) for _ in range(5)))

    assert {route.address for route in routes} == {sandbox.address}
    row = await control.get(ALICE, sandbox.id)
    assert (row.generation, row.deadline) == (2, world.clock.now() + world.limits.wake_timeout)


async def test_the_edge_is_told_of_one_that_is_being_paused(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:2")
    pausing = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
    await world.faults.reached("checkpoint:2")

    route = await control.routing.route(sandbox.id)

    assert (route.status, route.address) == (Status.PAUSING, None)
    control.pausing.stop(sandbox.id)
    await pausing


async def test_the_edge_is_told_of_one_that_is_being_resumed(world: World, control: Control) -> None:
    sandbox = await asleep(world, control)
    # Paused, it is none that a client may wait for.
    with pytest.raises(NotFoundError):
        await control.routing.route(sandbox.id)
    world.faults.hang("restore:1")
    resuming = asyncio.create_task(outcome(control.pausing.connect(ALICE, sandbox.id, MINUTE)))
    await world.faults.reached("restore:1")

    route = await control.routing.route(sandbox.id)

    assert (route.status, route.address) == (Status.RESUMING, None)
    control.pausing.stop(sandbox.id)
    await resuming


async def test_traffic_waits_for_the_pause_that_it_ends(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE, auto_resume=True)
    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await until(world, sandbox.id, Status.PAUSING)

    route = await control.routing.route(sandbox.id)

    assert (route.status, route.address) == (Status.RUNNING, sandbox.address)
    await pausing
    assert (await control.get(ALICE, sandbox.id)).generation == 2


async def test_a_checkpoint_that_is_gone_is_told_by_name_and_not_as_if_the_sandbox_was(
    world: World, control: Control
) -> None:
    sandbox = await asleep(world, control)
    await world.checkpoints.remove_all(sandbox.id)

    with pytest.raises(FailedPreconditionError, match=f"Checkpoint '{sandbox.id}-1' cannot be restored"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED


async def test_so_is_one_that_goes_while_it_is_unpacked(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await asleep(world, control)

    async def gone(name: str) -> None:
        raise NotFoundError("There is no such checkpoint", details=name)

    monkeypatch.setattr(world.checkpoints, "_unpack", gone)

    with pytest.raises(FailedPreconditionError, match=f"Checkpoint '{sandbox.id}-1' cannot be restored"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)


async def test_why_traffic_wakes_nobody_is_said(world: World, control: Control) -> None:
    sandbox = await asleep(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE, auto_resume=True)
    world.faults.fail("restore:1", FailedPreconditionError("Checkpoint 'x' is damaged"))

    with pytest.raises(FailedPreconditionError, match="is damaged"):
        await control.routing.route(sandbox.id)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
