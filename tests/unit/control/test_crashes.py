"""
The server dies at every point of its work, and the next one puts things right.

Every port call of create, kill, deadline and reconciliation is a point, and so are the steps inside
the runtime's start and destroy. From that point on nothing the old server does has any effect: not
its undoing either.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.crashes import Crash, PointedStore, Points, life
from fakes.world import ALICE, World, outcome, wish

from atoll.server.control.service import Control
from atoll.server.domain.errors import AtollError, UnavailableError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Status
from atoll.server.runtimes.fake.faults import Faults

MINUTE = timedelta(minutes=1)
# More than any script here has; a test makes sure of it.
MOST_POINTS = 100


@dataclass
class Told:
    """What the clients of a server were told."""

    created: set[SandboxId] = field(default_factory=set)
    killed: set[SandboxId] = field(default_factory=set)
    asked_to_end: set[SandboxId] = field(default_factory=set)


async def script(world: World, control: Control, told: Told) -> None:
    """Create, kill, let a deadline pass, let a machine end, create at once."""
    first = await control.create(ALICE, wish(metadata={"n": "1"}))
    told.created.add(first.id)
    second = await control.create(ALICE, wish(timeout=10 * MINUTE))
    told.created.add(second.id)
    told.asked_to_end.add(first.id)
    await control.kill(ALICE, first.id)
    told.killed.add(first.id)

    short = await control.create(ALICE, wish(timeout=MINUTE))
    told.created.add(short.id)
    told.asked_to_end.add(short.id)
    before = world.faults.passed["destroy:3"]
    world.clock.advance(MINUTE)
    while world.faults.passed["destroy:3"] == before:
        await asyncio.sleep(0)
    await control.settled()

    third = await control.create(ALICE, wish(timeout=10 * MINUTE))
    told.created.add(third.id)
    told.asked_to_end.add(third.id)
    world.runtime.end(third.id)

    async def one() -> None:
        sandbox = await control.create(ALICE, wish(timeout=10 * MINUTE))
        told.created.add(sandbox.id)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(one())
    await control.settled()


async def nothing(_: Control) -> None:
    return


async def check_next_life(world: World, told: Told) -> None:
    """Start a server that lives; what was told holds, and nothing is half done."""
    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        await world.assert_agreement()
        rows = await world.rows()
        running = {row.id for row in rows.values() if row.status is Status.RUNNING}
        assert told.created - told.asked_to_end <= running
        assert told.created <= set(rows)
        assert not told.killed & running
        assert {rows[one].end_reason for one in told.killed} <= {EndReason.KILLED}
        # Whatever is there can be used and ended.
        for sandbox_id in running:
            await control.kill(ALICE, sandbox_id)
        assert (await control.create(ALICE, wish())).status is Status.RUNNING
        await world.assert_agreement()


async def test_the_script_has_as_many_points_as_are_tried(world: World) -> None:
    points = Points()
    told = Told()

    await life(world, points, lambda control: script(world, control, told))

    assert len(told.created) == 6
    assert MOST_POINTS - 20 < points.count < MOST_POINTS, points.count


@pytest.mark.parametrize("point", range(1, MOST_POINTS))
async def test_a_server_that_dies_anywhere_loses_nothing(world: World, point: int) -> None:
    told = Told()

    await life(world, Points(point, Points.die), lambda control: script(world, control, told))

    await check_next_life(world, told)


@pytest.mark.parametrize("first", ["start:3", "configure", "destroy:2", "forget"])
async def test_a_server_that_dies_while_it_puts_things_right_is_no_worse(tmp_path: Path, first: str) -> None:
    for point in range(1, 25):
        world = World(tmp_path / str(point))
        told = Told()
        dying = Points()
        dying.fail(first, Crash())

        async def two_sandboxes(control: Control, told: Told = told) -> None:
            for _ in range(2):
                sandbox = await control.create(ALICE, wish())
                told.created.add(sandbox.id)
                told.asked_to_end.add(sandbox.id)
                await control.kill(ALICE, sandbox.id)

        await life(world, dying, two_sandboxes)
        await life(world, Points(point, Points.die), lambda control: control.settled())

        await check_next_life(world, told)


@pytest.mark.parametrize("point", range(1, 13))
async def test_a_create_that_is_cancelled_anywhere_leaves_nothing(world: World, point: int) -> None:
    callers: list[asyncio.Task[Any]] = []

    async def work(control: Control) -> None:
        points.count = 0
        async with asyncio.TaskGroup() as group:
            callers.append(group.create_task(control.create(ALICE, wish())))
            await asyncio.wait(callers)
        await control.settled()
        await world.assert_agreement()
        if callers[0].cancelled():
            assert world.runtime.running() == set()
        assert (await control.create(ALICE, wish())).status is Status.RUNNING
        await world.assert_agreement()

    def cancel(points: Points) -> None:
        if callers:
            callers[0].cancel()
        else:
            points._act_at = None

    points = Points()
    points._act = cancel
    points._act_at = None
    world.renew(points)
    world.store = PointedStore(world.store, points)  # type: ignore[assignment]
    await world.database.open()
    async with world.control() as control:
        points._act_at = point
        await work(control)
    await world.database.close()


@pytest.mark.parametrize("point", range(1, 60))
async def test_a_port_that_fails_anywhere_once_leaves_nothing(world: World, point: int) -> None:
    def fail(points: Points) -> None:
        raise UnavailableError(f"point {points.count}")

    points = Points()
    world.renew(points)
    world.store = PointedStore(world.store, points)  # type: ignore[assignment]
    await world.database.open()
    async with world.control() as control:
        points._act, points._act_at = fail, points.count + point
        # Time goes on by itself, for those who pause before they try again.
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(tick(world))
            sandbox = await outcome(control.create(ALICE, wish()))
            if not isinstance(sandbox, AtollError):
                while isinstance(await outcome(control.kill(ALICE, sandbox.id)), UnavailableError):
                    pass
            other = await outcome(control.create(ALICE, wish(timeout=timedelta(hours=24))))
            await control.settled()
            ticking.cancel()
        points._act_at = None
        await world.assert_agreement()
        if not isinstance(other, AtollError):
            assert world.runtime.running() == {other.id}
    await world.database.close()


async def tick(world: World) -> None:
    while True:
        await asyncio.sleep(0.001)
        world.clock.advance(timedelta(seconds=1))
