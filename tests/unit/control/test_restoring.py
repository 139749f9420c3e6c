"""Resumes: with its memory or without, and with what is to become of it afterwards."""

import asyncio

import pytest
from fakes.sleepers import FILES, MEMORY, MINUTE, asleep, started, until
from fakes.world import ALICE, World, small

from atoll.server.control.service import Control
from atoll.server.domain.errors import (
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.sandbox import OnDeadline, Status


async def test_without_its_memory_a_sandbox_boots(world: World, control: Control) -> None:
    sandbox = await asleep(world, control, FILES)

    await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert world.runtime.recall(sandbox.id) == ("", "kept")


async def test_a_sandbox_boots_from_its_files_though_its_memory_was_kept(
    world: World, control: Control
) -> None:
    sandbox = await asleep(world, control)

    back, resumed = await control.pausing.connect(ALICE, sandbox.id, MINUTE, memory=False)

    assert resumed
    assert world.runtime.recall(sandbox.id) == ("", "kept")
    assert (back.generation, back.address) == (2, sandbox.address)
    await control.settled()
    await world.assert_agreement()
    assert await world.checkpoints.names() == frozenset()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OnDeadline.KILL, OnDeadline.PAUSE),
        (OnDeadline.PAUSE, OnDeadline.PAUSE),
        (OnDeadline.PAUSE_FILES, OnDeadline.PAUSE_FILES),
    ],
)
async def test_who_resumes_it_may_have_it_paused_at_its_deadline(
    world: World, control: Control, before: OnDeadline, after: OnDeadline
) -> None:
    sandbox = await asleep(world, control, on_deadline=before)
    plain, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert plain.on_deadline is before
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    back, resumed = await control.pausing.connect(ALICE, sandbox.id, MINUTE, auto_pause=True)

    assert (resumed, back.on_deadline) == (True, after)
    assert (await control.get(ALICE, sandbox.id)).on_deadline is after
    world.clock.advance(2 * MINUTE)
    row = await until(world, sandbox.id, Status.PAUSED)
    assert row.pause is not None
    assert row.pause.kind is (FILES if after is OnDeadline.PAUSE_FILES else MEMORY)
    await control.settled()
    await world.assert_agreement()


async def test_each_of_those_who_resume_it_at_once_may_have_it_paused_at_its_deadline(
    world: World, control: Control
) -> None:
    sandbox = await asleep(world, control)

    await asyncio.gather(
        control.pausing.connect(ALICE, sandbox.id, MINUTE),
        control.pausing.connect(ALICE, sandbox.id, MINUTE, auto_pause=True),
        control.pausing.connect(ALICE, sandbox.id, MINUTE),
    )

    assert (await control.get(ALICE, sandbox.id)).on_deadline is OnDeadline.PAUSE
    await control.settled()
    await world.assert_agreement()


@pytest.mark.parametrize(("place", "times"), [("restore:3", 1), ("checkpoint:1", 1), ("abandon", 2)])
async def test_who_cannot_boot_from_files_keeps_the_memory(
    world: World, control: Control, place: str, times: int
) -> None:
    sandbox = await asleep(world, control)
    # What would not go of a machine is tried once more for whoever waits.
    world.faults.fail(place, UnavailableError("not now"), times=times)

    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE, memory=False)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")
    await control.settled()
    await world.assert_agreement()


async def test_connect_leaves_a_running_sandbox_as_it_is(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=10 * MINUTE)

    same, resumed = await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert (same, resumed) == (sandbox, False)


@pytest.mark.parametrize("place", ["restore:1", "restore:2", "restore:3", "configure"])
async def test_who_cannot_be_brought_back_stays_paused(world: World, control: Control, place: str) -> None:
    sandbox = await asleep(world, control)
    world.faults.fail(place, UnavailableError("not now"))

    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
    await world.assert_agreement()
    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert back.address == sandbox.address
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_a_resume_waits_for_the_pause_before_it(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await until(world, sandbox.id, Status.PAUSING)

    back, resumed = await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert resumed
    assert back.status is Status.RUNNING
    assert (await pausing).status is Status.PAUSED
    await control.settled()
    await world.assert_agreement()


async def test_paused_sandboxes_take_no_place_of_running_ones(world: World) -> None:
    world.limits = small(max_sandboxes=1)
    async with world.server() as control:
        first = await asleep(world, control)
        second = await started(world, control)

        with pytest.raises(ResourceExhaustedError):
            await control.pausing.connect(ALICE, first.id, MINUTE)

        await control.kill(ALICE, second.id)
        assert (await control.pausing.connect(ALICE, first.id, MINUTE))[1]


async def test_those_who_want_it_at_once_share_a_resume_that_fails(world: World, control: Control) -> None:
    sandbox = await asleep(world, control)
    world.faults.fail("restore:1", UnavailableError("not now"))

    calls = [control.pausing.connect(ALICE, sandbox.id, MINUTE) for _ in range(4)]
    calls += [control.pausing.connect(ALICE, sandbox.id, MINUTE, memory=False)]
    *told, booted = await asyncio.gather(*calls, return_exceptions=True)

    assert [str(one) for one in told] == ["not now"] * 4
    # Who wants something else has his own.
    assert isinstance(booted, tuple), booted
    assert booted[0].status is Status.RUNNING
    # His takes two: the memory comes back, to be written down without it.
    assert world.faults.passed["restore:1"] == 1 + 2
    await control.settled()
    await world.assert_agreement()
