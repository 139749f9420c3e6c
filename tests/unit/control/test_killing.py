"""Kills: what is gone, who may ask, what happens when something will not go."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from fakes.world import ALICE, World, outcome, turns, wish

from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError, UnavailableError
from atoll.server.domain.ids import TeamId, new_sandbox_id
from atoll.server.domain.sandbox import EndReason, Status, Target
from atoll.server.runtimes.fake.runtime import DESTROY_PLACES

MALLORY = Actor(team_id=TeamId("others"), key_id="mallory", key_name="mallory")


async def test_a_killed_sandbox_is_gone_and_its_row_says_why(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    killed = await control.kill(ALICE, sandbox.id)

    assert (killed.status, killed.target, killed.end_reason) == (
        Status.KILLED,
        Target.KILLED,
        EndReason.KILLED,
    )
    assert killed.ended_at == world.clock.now()
    assert world.edge.forgotten == [sandbox.id]
    await world.assert_agreement()
    with pytest.raises(NotFoundError):
        await control.get(ALICE, sandbox.id)
    assert await control.get(ALICE, sandbox.id, ended=True) == killed


async def test_killing_what_is_gone_finds_nothing(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    await control.kill(ALICE, sandbox.id)

    with pytest.raises(NotFoundError, match=f'Sandbox "{sandbox.id}" doesn\'t exist'):
        await control.kill(ALICE, sandbox.id)
    with pytest.raises(NotFoundError):
        await control.kill(ALICE, new_sandbox_id())
    with pytest.raises(InvalidArgumentError):
        await control.kill(ALICE, "../../etc")


async def test_nobody_kills_a_sandbox_of_another_team(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    with pytest.raises(NotFoundError):
        await control.kill(MALLORY, sandbox.id)

    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING


async def test_kills_at_once_share_the_work(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    killed = await asyncio.gather(*(control.kill(ALICE, sandbox.id) for _ in range(5)))

    assert {row.status for row in killed} == {Status.KILLED}
    assert world.faults.passed["destroy:1"] == 1
    assert world.edge.forgotten == [sandbox.id]


async def test_the_row_is_written_first_then_the_route_goes_then_the_machine(
    world: World, control: Control
) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.hang("forget")
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(control.kill(ALICE, sandbox.id))
        await world.faults.reached("forget")

        row = (await world.rows())[sandbox.id]
        assert (row.status, row.target) == (Status.KILLING, Target.KILLED)
        assert world.faults.passed["destroy:1"] == 0
        with pytest.raises(NotFoundError):
            await control.routing.route(sandbox.id)
        with pytest.raises(NotFoundError):
            await control.get(ALICE, sandbox.id)
        caller.cancel()


async def test_a_kill_goes_on_when_its_caller_goes_away(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(control.kill(ALICE, sandbox.id))
        await world.faults.reached("destroy:2")
        caller.cancel()
    await control.settled()

    assert (await world.rows())[sandbox.id].status is Status.KILLED
    await world.assert_agreement()


@pytest.mark.parametrize("place", ["forget", *DESTROY_PLACES])
async def test_what_will_not_go_is_tried_again(world: World, control: Control, place: str) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.fail(place, UnavailableError("stuck"), times=2)
    start = world.clock.now()

    async with asyncio.TaskGroup() as group:
        caller = group.create_task(control.kill(ALICE, sandbox.id))
        await world.clock.slept_until(start + timedelta(milliseconds=200))
        world.clock.advance(timedelta(milliseconds=200))
        await world.clock.slept_until(start + timedelta(milliseconds=600))
        world.clock.advance(timedelta(milliseconds=400))

    assert caller.result().status is Status.KILLED
    await world.assert_agreement()


async def test_after_some_attempts_the_caller_hears_of_it_and_the_attempts_go_on(
    world: World, control: Control
) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.fail("destroy:2", OSError("device busy"), times=7)
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(outcome(control.kill(ALICE, sandbox.id)))
        while world.faults.passed["destroy:2"] < 3:
            await turns(2)
            world.clock.advance(timedelta(seconds=1))
    assert isinstance(caller.result(), UnavailableError)
    assert caller.result().details == "device busy"
    with pytest.raises(UnavailableError):
        await control.kill(ALICE, sandbox.id)
    assert (await world.rows())[sandbox.id].status is Status.KILLING

    while world.faults.passed["destroy:2"] < 8:
        await turns(2)
        world.clock.advance(timedelta(minutes=1))
    await control.settled()

    assert (await world.rows())[sandbox.id].status is Status.KILLED
    await world.assert_agreement()


async def test_one_that_hangs_stalls_no_other(world: World, control: Control) -> None:
    stuck = await control.create(ALICE, wish())
    other = await control.create(ALICE, wish())
    world.faults.hang("destroy:1")
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(control.kill(ALICE, stuck.id))
        await world.faults.reached("destroy:1")

        assert (await control.kill(ALICE, other.id)).status is Status.KILLED
        assert (await control.create(ALICE, wish())).status is Status.RUNNING
        caller.cancel()


async def test_a_hanging_attempt_ends_by_its_limit(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    limits = replace(world.limits, destroy_timeout=timedelta(milliseconds=20), destroy_attempts=1)
    world = World(tmp_path_factory.mktemp("world"), limits)
    async with world.server() as control:
        sandbox = await control.create(ALICE, wish())
        world.faults.hang("destroy:1")

        with pytest.raises(UnavailableError, match="not gone yet"):
            await control.kill(ALICE, sandbox.id)

        world.clock.advance(timedelta(seconds=1))
        await control.settled()
        await world.assert_agreement()


async def test_a_kill_cancelled_at_any_moment_is_done_or_was_never_asked(
    world: World, control: Control
) -> None:
    for moment in range(30):
        sandbox = await control.create(ALICE, wish())
        async with asyncio.TaskGroup() as group:
            caller = group.create_task(control.kill(ALICE, sandbox.id))
            await turns(moment)
            caller.cancel()
        await control.settled()

        row = (await world.rows())[sandbox.id]
        assert row.status in {Status.RUNNING, Status.KILLED}
        assert row.status is Status.KILLED or moment == 0
        await world.assert_agreement()
