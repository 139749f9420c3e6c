"""What traffic waits for goes first, though it had waited for its turn like any other."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fakes.sleepers import MEMORY, MINUTE, asleep
from fakes.world import ALICE, World, outcome, small, turns, wish

from atoll.server.control.service import Control
from atoll.server.domain.errors import Reason, UnavailableError
from atoll.server.domain.sandbox import Sandbox, Status


@pytest.fixture
def world(world: World) -> World:
    """A world where one thing is done at a time."""
    world.limits = small(concurrent_starts=1)
    return world


async def until_waiting(control: Control, number: int) -> None:
    """Return when so many wait for a turn."""
    async with asyncio.timeout(10):
        while control.admission.waiting != number:
            await asyncio.sleep(0)


async def woken(
    world: World, control: Control, sandbox: Sandbox, work: Callable[[], Awaitable[Any]]
) -> tuple[list[str], Any]:
    """
    Have a request arrive for a sandbox while work with it waits in the queue, behind a create.

    Returns:
        What was done, in order, and what the request got.
    """
    done = list[str]()

    async def told(name: str, call: Awaitable[Any]) -> None:
        await outcome(call)
        done.append(name)

    world.faults.hang("start:1")
    async with asyncio.TaskGroup() as group:
        group.create_task(told("under way", control.create(ALICE, wish())))
        await world.faults.reached("start:1", times=2)
        group.create_task(told("before", control.create(ALICE, wish())))
        await until_waiting(control, 1)
        group.create_task(told("work", work()))
        await until_waiting(control, 2)
        waking = group.create_task(outcome(control.routing.route(sandbox.id)))
        await turns(100)
        world.faults.let_go("start:1")
    return done, waking.result()


async def test_a_resume_that_waits_for_its_turn_goes_first_once_traffic_waits_for_it(
    world: World, control: Control
) -> None:
    sandbox = await asleep(world, control, auto_resume=True)

    done, route = await woken(
        world, control, sandbox, lambda: control.pausing.connect(ALICE, sandbox.id, MINUTE)
    )

    assert done == ["under way", "work", "before"]
    assert route.status is Status.RUNNING
    # They share the work.
    assert world.faults.passed["restore:1"] == 1
    await control.settled()
    await world.assert_agreement()


async def test_a_pause_that_traffic_waits_for_goes_first_too(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish(auto_resume=True))

    done, route = await woken(
        world, control, sandbox, lambda: control.pausing.pause(ALICE, sandbox.id, MEMORY)
    )

    assert done == ["under way", "work", "before"]
    assert route.status is Status.RUNNING
    await control.settled()
    await world.assert_agreement()


async def test_what_no_traffic_wakes_keeps_its_turn(world: World, control: Control) -> None:
    sandbox = await asleep(world, control)

    done, route = await woken(
        world, control, sandbox, lambda: control.pausing.connect(ALICE, sandbox.id, MINUTE)
    )

    assert done == ["under way", "before", "work"]
    assert route.status is Status.RESUMING


async def test_nobody_makes_way_for_a_guest_that_is_known_to_be_silent(
    world: World, control: Control
) -> None:
    sandbox = await control.create(ALICE, wish(auto_resume=True))
    world.faults.fail("probe", UnavailableError("silent"))
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    world.faults.fail("restore:1", UnavailableError("not now"))

    done, refused = await woken(
        world, control, sandbox, lambda: control.pausing.connect(ALICE, sandbox.id, MINUTE)
    )

    assert done == ["under way", "before", "work"]
    assert refused.reason is Reason.GUEST_SILENT
