"""A named create that is sent twice is done once."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from fakes.teams import add_teams
from fakes.world import ALICE, World, wish

from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    Reason,
    UnavailableError,
)
from atoll.server.domain.ids import TeamId
from atoll.server.domain.sandbox import EndReason, Status

BOB = Actor(team_id=TeamId("others"), key_id="bob", key_name="bob")


async def test_the_same_create_gets_the_same_sandbox(control: Control) -> None:
    first = await control.create(ALICE, wish(request_key="a-1", metadata={"b": "1", "a": "2"}))
    again = await control.create(ALICE, wish(request_key="a-1", metadata={"a": "2", "b": "1"}))
    other = await control.create(ALICE, wish(request_key="a-2"))

    assert again.id == first.id
    assert other.id != first.id


async def test_a_name_is_its_teams_own(world: World, control: Control) -> None:
    await add_teams(world.database, BOB.team_id)
    mine = await control.create(ALICE, wish(request_key="x"))
    theirs = await control.create(BOB, wish(request_key="x"))

    assert mine.id != theirs.id


async def test_another_wish_under_the_same_name_is_a_mistake(control: Control) -> None:
    await control.create(ALICE, wish(request_key="x"))

    with pytest.raises(FailedPreconditionError) as caught:
        await control.create(ALICE, wish(request_key="x", timeout=timedelta(seconds=7)))

    assert caught.value.reason is Reason.REQUEST_MISMATCH


async def test_of_two_at_once_one_is_done_and_the_other_told_so(world: World, control: Control) -> None:
    world.faults.hang("configure")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(control.create(ALICE, wish(request_key="x")))
        await world.faults.reached("configure")
        with pytest.raises(AbortedError) as caught:
            await control.create(ALICE, wish(request_key="x"))
        first.cancel()

    assert caught.value.reason is Reason.REQUEST_IN_PROGRESS


async def test_what_failed_is_tried_again_under_its_name(world: World, control: Control) -> None:
    world.faults.fail("configure", UnavailableError("no"))
    with pytest.raises(UnavailableError):
        await control.create(ALICE, wish(request_key="x"))

    sandbox = await control.create(ALICE, wish(request_key="x"))

    assert (await control.create(ALICE, wish(request_key="x"))).id == sandbox.id


async def test_a_name_outlives_the_server(world: World) -> None:
    async with world.server() as control:
        first = await control.create(ALICE, wish(request_key="x"))
    async with world.server() as control:
        assert (await control.create(ALICE, wish(request_key="x"))).id == first.id


async def test_a_sandbox_that_ended_is_still_the_answer(control: Control) -> None:
    first = await control.create(ALICE, wish(request_key="x"))
    await control.kill(ALICE, first.id)

    assert (await control.create(ALICE, wish(request_key="x"))).id == first.id


async def test_one_whose_caller_went_away_as_it_came_up_is_no_answer(world: World, control: Control) -> None:
    first = await control.create(ALICE, wish(request_key="x"))
    row = await world.store.get_sandbox(first.id)
    ended = replace(row, status=Status.KILLING, end_reason=EndReason.START_INTERRUPTED)
    await world.store.replace_sandbox(row, ended)

    second = await control.create(ALICE, wish(request_key="x"))

    assert second.id != first.id
    assert (await control.create(ALICE, wish(request_key="x"))).id == second.id
    control._parts.killing.remove(first.id)
    await control.settled()


@pytest.mark.parametrize("key", ["", "A", "a b", "a_b", "x" * 256, "ü", "a\n"])
async def test_names_have_a_form(control: Control, key: str) -> None:
    with pytest.raises(InvalidArgumentError, match="idempotency key"):
        await control.create(ALICE, wish(request_key=key))
