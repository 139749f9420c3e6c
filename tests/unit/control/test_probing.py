"""Guests about whom somebody complains are asked, and end only when they do not answer."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from fakes.teams import add_teams
from fakes.world import ALICE, World, outcome, small, wish

from atoll.server.control.machines.probing import MOST_ASKED
from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import InvalidArgumentError, UnavailableError
from atoll.server.domain.ids import TeamId, new_sandbox_id
from atoll.server.domain.sandbox import EndReason, OnDeadline, Status

BOB = Actor(team_id=TeamId("bobs"), key_id="bob", key_name="bob")
MINUTE = timedelta(minutes=1)


async def test_a_guest_that_answers_lives_on(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    control.routing.silent(sandbox.id)
    control.routing.silent(sandbox.id)
    await control.settled()

    assert world.faults.passed["probe"] == 1
    assert (await world.store.get_sandbox(sandbox.id)).status is Status.RUNNING
    await world.assert_agreement()


async def test_a_guest_that_does_not_answer_ends_with_that_reason(world: World, control: Control) -> None:
    sandbox, other = await control.create(ALICE, wish()), await control.create(ALICE, wish())
    world.faults.fail("probe", UnavailableError("the sandbox does not answer", details="no answer in 10 s"))

    control.routing.silent(sandbox.id)
    await control.settled()

    row = await world.store.get_sandbox(sandbox.id)
    assert (row.status, row.end_reason) == (Status.FAILED, EndReason.GUEST_HUNG)
    assert row.end_detail == "guestd does not answer: no answer in 10 s"
    assert (await world.store.get_sandbox(other.id)).status is Status.RUNNING
    await world.assert_agreement()


async def test_one_that_stands_still_to_be_written_down_is_not_asked(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    world.faults.hang("checkpoint:1")
    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, CheckpointKind.MEMORY))
    await world.faults.reached("checkpoint:1")
    # By the pause itself, before its machine stood still.
    asked = world.faults.passed["probe"]

    control.routing.silent(sandbox.id)
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.faults.passed["probe"] == asked

    control.pausing.stop(sandbox.id)
    await asyncio.wait([pausing])
    await control.settled()
    assert (await world.store.get_sandbox(sandbox.id)).status is Status.RUNNING


async def test_complaints_about_nobody_change_nothing(world: World, control: Control) -> None:
    with pytest.raises(InvalidArgumentError):
        control.routing.silent("../etc")

    control.routing.silent(new_sandbox_id())
    await control.settled()

    assert world.faults.passed["probe"] == 0


async def test_a_hundred_deadlines_of_hung_guests_pause_them_all(tmp_path: Path) -> None:
    world = World(tmp_path, small(max_sandboxes=200))
    async with world.server() as control:
        dying = wish(timeout=MINUTE, on_deadline=OnDeadline.PAUSE)
        for _ in range(100):
            await control.create(ALICE, dying)
        world.faults.fail("probe", UnavailableError("silent"), times=100)

        world.clock.advance(MINUTE)
        await world.faults.reached("probe", times=100)
        await control.settled()

        rows = (await world.rows()).values()
        assert [row.status for row in rows] == [Status.PAUSED] * 100
        assert all(row.pause is not None and row.pause.silent for row in rows)
        await world.assert_agreement()


async def test_hung_guests_of_one_team_take_no_turn_of_anothers(tmp_path: Path) -> None:
    world = World(tmp_path, small(max_sandboxes=200))
    async with world.server() as control:
        await add_teams(world.database, BOB.team_id)
        other = await control.create(BOB, wish())
        many = [await control.create(ALICE, wish()) for _ in range(MOST_ASKED + 1)]
        world.faults.hang("probe", times=MOST_ASKED)
        pauses = [
            asyncio.create_task(outcome(control.pausing.pause(ALICE, one.id, CheckpointKind.MEMORY)))
            for one in many
        ]
        await world.faults.reached("probe", times=MOST_ASKED)

        control.routing.silent(other.id)
        await world.faults.reached("probe", times=MOST_ASKED + 1)
        paused = await control.pausing.pause(BOB, other.id, CheckpointKind.MEMORY)

        assert paused.pause is not None
        assert not paused.pause.silent
        assert world.faults.passed["probe"] == MOST_ASKED + 2
        for one in many:
            control.pausing.stop(one.id)
        await asyncio.wait(pauses)
