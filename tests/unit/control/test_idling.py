"""Idle timeouts: who is called lives on, who is not is paused or ended, and the guest is never asked."""

from datetime import timedelta
from typing import Any

import pytest
from fakes.sleepers import until
from fakes.world import ALICE, World, turns, wish

from atoll.server.control.service import Control
from atoll.server.domain.sandbox import EndReason, OnDeadline, Sandbox, Status
from atoll.server.domain.upkeep import Upkeep
from atoll.server.runtimes.fake.faults import Faults

IDLE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)


async def started(control: Control, *, persistent: bool = False, **changes: Any) -> Sandbox:
    upkeep = Upkeep(persistent=persistent, idle_timeout=IDLE)
    return await control.create(ALICE, wish(upkeep=upkeep, **changes))


@pytest.mark.parametrize(
    ("persistent", "on_deadline", "status"),
    [
        (False, OnDeadline.KILL, Status.KILLED),
        (False, OnDeadline.PAUSE, Status.PAUSED),
        (False, OnDeadline.PAUSE_FILES, Status.PAUSED),
        (True, OnDeadline.KILL, Status.PAUSED),
    ],
)
async def test_whom_nobody_calls_is_paused_or_ended(
    world: World, control: Control, persistent: bool, on_deadline: OnDeadline, status: Status
) -> None:
    sandbox = await started(control, persistent=persistent, on_deadline=on_deadline)
    await world.clock.slept_until(world.clock.now() + IDLE)

    world.clock.advance(IDLE - SECOND)
    await turns()
    assert world.faults.passed["retire"] == 0
    world.clock.advance(SECOND)
    row = await until(world, sandbox.id, status)
    await control.settled()

    assert world.faults.passed["retire"] == 1
    assert row.end_reason is (EndReason.IDLE if status is Status.KILLED else None)
    await world.assert_agreement()


async def test_the_edge_says_how_long_it_takes_at_least(world: World, control: Control) -> None:
    sandbox = await started(control, on_deadline=OnDeadline.PAUSE)
    world.edge.busy[sandbox.id] = 20 * SECOND
    await world.clock.slept_until(world.clock.now() + IDLE)

    for number in range(1, 4):
        world.clock.advance(IDLE if number == 1 else 20 * SECOND)
        await world.faults.reached("retire", times=number)
        await world.clock.slept_until(world.clock.now() + 20 * SECOND)
        assert (await world.store.get_sandbox(sandbox.id)).status is Status.RUNNING

    del world.edge.busy[sandbox.id]
    world.clock.advance(20 * SECOND)
    await until(world, sandbox.id, Status.PAUSED)
    await control.settled()
    await world.assert_agreement()


async def test_the_next_server_keeps_the_time_too_and_a_resume_begins_it_anew(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(control, on_deadline=OnDeadline.PAUSE)
    world.renew(Faults())
    async with world.server() as control:
        await world.clock.slept_until(world.clock.now() + IDLE)
        world.clock.advance(IDLE)
        await until(world, sandbox.id, Status.PAUSED)

        back, _ = await control.pausing.connect(ALICE, sandbox.id, timedelta(minutes=5))

        assert back.idle_due == world.clock.now() + IDLE
        await control.settled()
        await world.assert_agreement()
