"""Guests about whom somebody complains are asked, and end only when they do not answer."""

import asyncio

import pytest
from fakes.world import ALICE, World, wish

from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import InvalidArgumentError, UnavailableError
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.domain.sandbox import EndReason, Status


async def test_a_guest_that_answers_lives_on(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    control.silent(sandbox.id)
    control.silent(sandbox.id)
    await control.settled()

    assert world.faults.passed["probe"] == 1
    assert (await world.store.get_sandbox(sandbox.id)).status is Status.RUNNING
    await world.assert_agreement()


async def test_a_guest_that_does_not_answer_ends_with_that_reason(world: World, control: Control) -> None:
    sandbox, other = await control.create(ALICE, wish()), await control.create(ALICE, wish())
    world.faults.fail("probe", UnavailableError("the sandbox does not answer", details="no answer in 10 s"))

    control.silent(sandbox.id)
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

    control.silent(sandbox.id)
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.faults.passed["probe"] == asked

    control.pausing.stop(sandbox.id)
    await asyncio.wait([pausing])
    await control.settled()
    assert (await world.store.get_sandbox(sandbox.id)).status is Status.RUNNING


async def test_complaints_about_nobody_change_nothing(world: World, control: Control) -> None:
    with pytest.raises(InvalidArgumentError):
        control.silent("../etc")

    control.silent(new_sandbox_id())
    await control.settled()

    assert world.faults.passed["probe"] == 0
