"""Deadlines: moving them, and what happens when they pass."""

from datetime import timedelta

import pytest
from fakes.world import ALICE, World, turns, wish

from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError, UnavailableError
from atoll.server.domain.ids import TeamId
from atoll.server.domain.sandbox import EndReason, Status, Target

MINUTE = timedelta(minutes=1)


async def test_a_sandbox_ends_at_its_deadline_and_not_before(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish(timeout=MINUTE))
    await world.clock.slept_until(sandbox.deadline)

    world.clock.advance(MINUTE - timedelta(microseconds=1))
    await turns()
    await control.settled()
    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING

    world.clock.advance(timedelta(microseconds=1))
    await world.faults.reached("destroy:1")
    await control.settled()
    row = await control.get(ALICE, sandbox.id, ended=True)
    assert (row.status, row.target, row.end_reason) == (Status.KILLED, Target.KILLED, EndReason.DEADLINE)
    await world.assert_agreement()


async def test_an_earlier_deadline_wakes_the_reaper_and_a_later_one_does_not(
    world: World, control: Control
) -> None:
    late = await control.create(ALICE, wish(timeout=10 * MINUTE))
    await world.clock.slept_until(late.deadline)
    asked = world.clock.sleepers
    await control.create(ALICE, wish(timeout=20 * MINUTE))
    await turns()
    assert world.clock.sleepers == asked

    early = await control.create(ALICE, wish(timeout=MINUTE))
    await world.clock.slept_until(early.deadline)
    world.clock.advance(MINUTE)
    await world.faults.reached("destroy:1")
    await control.settled()

    assert (await world.rows())[early.id].status is Status.KILLED
    await world.clock.slept_until(late.deadline)
    await world.assert_agreement()


async def test_many_deadlines_at_once_are_all_kept(world: World, control: Control) -> None:
    for _ in range(20):
        await control.create(ALICE, wish(timeout=MINUTE))
    world.clock.advance(MINUTE)

    while world.faults.passed["destroy:3"] < 20:
        await turns(1)
    await control.settled()

    assert {row.end_reason for row in (await world.rows()).values()} == {EndReason.DEADLINE}
    await world.assert_agreement()


async def test_a_timeout_counts_from_now_and_may_shorten(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish(timeout=10 * MINUTE))
    world.clock.advance(MINUTE)

    longer = await control.set_timeout(ALICE, sandbox.id, 60 * MINUTE)
    shorter = await control.set_timeout(ALICE, sandbox.id, MINUTE)

    assert longer.deadline == world.clock.now() + 60 * MINUTE
    assert shorter.deadline == world.clock.now() + MINUTE
    assert (await control.get(ALICE, sandbox.id)).deadline == shorter.deadline
    await world.clock.slept_until(shorter.deadline)


async def test_a_timeout_of_zero_means_now(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())

    await control.set_timeout(ALICE, sandbox.id, timedelta())
    await world.faults.reached("destroy:1")
    await control.settled()

    assert (await world.rows())[sandbox.id].end_reason is EndReason.DEADLINE


async def test_a_refresh_only_extends(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish(timeout=10 * MINUTE))

    same = await control.refresh(ALICE, sandbox.id, MINUTE)
    later = await control.refresh(ALICE, sandbox.id, 20 * MINUTE)

    assert same.deadline == sandbox.deadline
    assert later.deadline == world.clock.now() + 20 * MINUTE


async def test_an_extended_sandbox_outlives_its_first_deadline(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish(timeout=MINUTE))
    await world.clock.slept_until(sandbox.deadline)
    moved = await control.set_timeout(ALICE, sandbox.id, 5 * MINUTE)

    world.clock.advance(MINUTE)
    await world.clock.slept_until(moved.deadline)

    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING


@pytest.mark.parametrize(
    ("from_now", "text"),
    [
        (timedelta(seconds=-1), "must not be negative"),
        (timedelta(hours=24, microseconds=1), "cannot be greater than 24 hours"),
        (timedelta.max, "cannot be greater than 24 hours"),
    ],
)
async def test_bad_timeouts_are_refused(
    world: World, control: Control, from_now: timedelta, text: str
) -> None:
    sandbox = await control.create(ALICE, wish())

    with pytest.raises(InvalidArgumentError, match=text):
        await control.set_timeout(ALICE, sandbox.id, from_now)
    with pytest.raises(InvalidArgumentError):
        await control.refresh(ALICE, sandbox.id, from_now)
    with pytest.raises(InvalidArgumentError, match="greater than 0"):
        await control.refresh(ALICE, sandbox.id, timedelta())

    assert await control.get(ALICE, sandbox.id) == sandbox


async def test_only_what_runs_and_is_ones_own_has_a_deadline_to_move(world: World, control: Control) -> None:
    sandbox = await control.create(ALICE, wish())
    mallory = Actor(team_id=TeamId("others"), key_id="mallory", key_name="mallory")
    with pytest.raises(NotFoundError):
        await control.set_timeout(mallory, sandbox.id, MINUTE)
    with pytest.raises(NotFoundError):
        await control.refresh(mallory, sandbox.id, MINUTE)
    await control.kill(ALICE, sandbox.id)

    with pytest.raises(NotFoundError):
        await control.set_timeout(ALICE, sandbox.id, MINUTE)


async def test_the_reaper_outlives_a_store_that_fails(
    world: World, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await control.create(ALICE, wish(timeout=MINUTE))
    await world.clock.slept_until(sandbox.deadline)
    broken = True
    replace_sandbox = world.store.replace_sandbox

    async def failing(old: object, new: object) -> None:
        if broken:
            raise UnavailableError("disk full")
        await replace_sandbox(old, new)  # type: ignore[arg-type]

    monkeypatch.setattr(world.store, "replace_sandbox", failing)
    world.clock.advance(MINUTE)
    await world.clock.slept_until(world.clock.now() + timedelta(seconds=1))
    broken = False
    world.clock.advance(timedelta(seconds=1))
    await world.faults.reached("destroy:1")
    await control.settled()

    assert (await world.rows())[sandbox.id].end_reason is EndReason.DEADLINE
