"""Pause and resume: what callers are promised, and what becomes of what is paused."""

import asyncio

import pytest
from fakes.sleepers import BOB, FILES, MEMORY, MINUTE, asleep, started, until
from fakes.world import ALICE, World, outcome

from atoll.server.control.machines.configuring import spec_of
from atoll.server.control.service import Control
from atoll.server.domain.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from atoll.server.domain.sandbox import EndReason, OnDeadline, Status
from atoll.server.runtimes.fake.faults import Faults


async def test_a_paused_sandbox_comes_back_as_it_was_with_a_new_generation(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)

    for generation in range(2, 5):
        paused = await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        assert (paused.status, paused.address) == (Status.PAUSED, None)
        assert world.runtime.running() == set()
        assert world.edge.forgotten.count(sandbox.id) == generation - 1
        await world.assert_agreement()

        back, resumed = await control.pausing.connect(ALICE, sandbox.id, 7 * MINUTE)

        assert resumed
        assert (back.status, back.address) == (Status.RUNNING, sandbox.address)
        assert (back.generation, back.deadline) == (generation, world.clock.now() + 7 * MINUTE)
        assert world.guest.configurations[sandbox.id].generation == generation
        assert world.runtime.recall(sandbox.id) == ("kept", "kept")
        await control.settled()
        await world.assert_agreement()


async def test_nobody_waits_until_the_machine_is_gone_but_who_wants_the_sandbox(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    world.faults.hang("abandon")

    paused = await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    assert (paused.status, paused.address) == (Status.PAUSED, None)
    resuming = asyncio.ensure_future(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached("restore:1")
    other = await started(world, control)
    assert not resuming.done()
    world.faults.let_go("abandon")
    back, _ = await resuming

    assert back.address == sandbox.address
    assert other.address != sandbox.address
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")
    await control.settled()
    await world.assert_agreement()


async def test_who_deletes_a_paused_sandbox_waits_until_its_machine_is_gone(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    world.faults.hang("abandon")
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    killing = asyncio.ensure_future(control.kill(ALICE, sandbox.id))
    other = await started(world, control)
    assert set(await world.runtime.remains()) == {sandbox.id, other.id}
    assert not killing.done()
    world.faults.let_go("abandon")
    await killing

    await control.settled()
    await control.kill(ALICE, other.id)
    assert list(await world.runtime.remains()) == []
    await world.assert_agreement()


async def test_what_runs_of_a_paused_sandbox_is_removed_by_the_next_server(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        row = await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        assert row.pause is not None
        # Its resume went back, and its machine would not go.
        await world.runtime.restore(spec_of(row), world.checkpoints.path(row.pause.checkpoint))

    async with world.server() as control:
        assert world.runtime.running() == set()
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)
        assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_what_cannot_be_is_refused(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    with pytest.raises(NotFoundError):
        await control.pausing.pause(BOB, sandbox.id, MEMORY)
    with pytest.raises(NotFoundError):
        await control.pausing.connect(BOB, sandbox.id, MINUTE)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    with pytest.raises(FailedPreconditionError, match="paused, not running"):
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    with pytest.raises(NotFoundError):
        await control.set_timeout(ALICE, sandbox.id, MINUTE)
    with pytest.raises(NotFoundError):
        await control.routing.route(sandbox.id)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
    await world.assert_agreement()


async def test_who_asks_for_the_pause_that_is_under_way_is_answered_when_it_is_paused(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:1")
    first = asyncio.ensure_future(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await world.faults.reached("checkpoint:1")

    again = [asyncio.ensure_future(control.pausing.pause(ALICE, sandbox.id, MEMORY)) for _ in range(3)]
    again[0].cancel()
    with pytest.raises(FailedPreconditionError, match="pausing, not running"):
        await control.pausing.pause(ALICE, sandbox.id, FILES)
    with pytest.raises(FailedPreconditionError, match="pausing, not running"):
        await control.pausing.pause(ALICE, sandbox.id, MEMORY, healthy=True)
    with pytest.raises(NotFoundError):
        await control.pausing.pause(BOB, sandbox.id, MEMORY)
    assert not any(one.done() for one in (first, *again[1:]))
    world.faults.let_go("checkpoint:1")

    rows = await asyncio.gather(first, *again[1:])
    assert [row.status for row in rows] == [Status.PAUSED] * 3
    assert world.faults.passed["checkpoint:1"] == 1
    with pytest.raises(FailedPreconditionError, match="paused, not running"):
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await world.assert_agreement()


async def test_who_pauses_what_is_being_resumed_waits_for_that(world: World, control: Control) -> None:
    sandbox = await asleep(world, control)
    world.faults.hang("restore:1")
    resuming = asyncio.ensure_future(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached("restore:1")

    pauses = [asyncio.ensure_future(control.pausing.pause(ALICE, sandbox.id, MEMORY)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in pauses)
    world.faults.let_go("restore:1")

    assert (await resuming)[0].status is Status.RUNNING
    assert {row.status for row in await asyncio.gather(*pauses)} == {Status.PAUSED}
    assert (await control.get(ALICE, sandbox.id)).generation == 2
    await control.settled()
    await world.assert_agreement()


async def test_who_pauses_what_does_not_come_back_hears_that_it_is_paused(
    world: World, control: Control
) -> None:
    sandbox = await asleep(world, control)
    world.faults.fail("restore:1", ResourceExhaustedError("The host's disk is full"))
    resuming = asyncio.ensure_future(outcome(control.pausing.connect(ALICE, sandbox.id, MINUTE)))
    await until(world, sandbox.id, Status.RESUMING)

    with pytest.raises(FailedPreconditionError, match="paused, not running"):
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    assert isinstance(await resuming, ResourceExhaustedError)
    await control.settled()
    await world.assert_agreement()


async def test_who_shares_a_pause_that_fails_hears_why(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"))

    answers = await asyncio.gather(
        *(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)) for _ in range(3))
    )

    assert [str(answer) for answer in answers] == ["The host's disk is full"] * 3
    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING
    await world.assert_agreement()


async def test_who_shares_a_pause_of_what_is_killed_hears_that_it_is_gone(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:1")
    pauses = [
        asyncio.ensure_future(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY))) for _ in range(2)
    ]
    await world.faults.reached("checkpoint:1")

    await control.kill(ALICE, sandbox.id)

    assert all(isinstance(answer, NotFoundError) for answer in await asyncio.gather(*pauses))
    await world.assert_agreement()


async def test_a_paused_sandbox_is_killed_with_all_that_is_left_of_it(world: World, control: Control) -> None:
    sandbox = await asleep(world, control)

    assert (await control.kill(ALICE, sandbox.id)).status is Status.KILLED

    await world.assert_agreement()
    assert await world.checkpoints.names() == frozenset()


async def test_who_cannot_be_written_down_runs_on(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"))

    with pytest.raises(ResourceExhaustedError, match="disk is full"):
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    row = await control.get(ALICE, sandbox.id)
    assert (row.status, row.address, row.pause) == (Status.RUNNING, sandbox.address, None)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")
    await world.assert_agreement()
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)


async def test_a_deadline_pauses_those_that_want_it(world: World, control: Control) -> None:
    kept = await started(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE)
    files = await started(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE_FILES)
    killed = await started(world, control, timeout=MINUTE)

    world.clock.advance(MINUTE)
    row = await until(world, kept.id, Status.PAUSED)
    assert row.pause is not None
    assert row.pause.kind is MEMORY
    row = await until(world, files.id, Status.PAUSED)
    assert row.pause is not None
    assert row.pause.kind is FILES
    await until(world, killed.id, Status.KILLED)
    await control.settled()
    await world.assert_agreement()


async def test_a_pause_at_the_deadline_that_fails_is_tried_again_later(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE)
    world.faults.fail("checkpoint:1", ResourceExhaustedError("The host's disk is full"))

    world.clock.advance(MINUTE)
    await until(world, sandbox.id, Status.PAUSING)
    row = await until(world, sandbox.id, Status.RUNNING)
    assert row.deadline == world.clock.now() + world.limits.pause_again
    await control.settled()
    world.clock.advance(world.limits.pause_again)

    await until(world, sandbox.id, Status.PAUSED)


async def test_calls_at_the_same_time_share_the_work(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    pauses = await asyncio.gather(*(control.pausing.pause(ALICE, sandbox.id, MEMORY) for _ in range(20)))
    assert [one.status for one in pauses] == [Status.PAUSED] * 20
    assert world.faults.passed["checkpoint:1"] == 1

    back = await asyncio.gather(
        *(control.pausing.connect(ALICE, sandbox.id, MINUTE * n) for n in range(1, 4))
    )

    assert {row.generation for row, _ in back} == {2}
    await control.settled()
    await world.assert_agreement()


async def test_the_next_server_has_the_paused_ones_and_no_other_checkpoint(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        lost = await started(world, control)
        for one in (sandbox, lost):
            await control.pausing.pause(ALICE, one.id, MEMORY)
    await world.checkpoints.remove(f"{lost.id}-1")
    (world.checkpoints.path("stray-1")).mkdir()
    (world.checkpoints.path(".half-stray-2")).mkdir()

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        await world.assert_agreement()
        assert (await world.store.get_sandbox(lost.id)).end_reason is EndReason.LOST
        assert not world.checkpoints.path(".half-stray-2").exists()
        assert (await control.pausing.connect(ALICE, sandbox.id, MINUTE))[0].address == sandbox.address
        assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_taking_the_home_down_leaves_the_paused_ones_on_the_disk(world: World) -> None:
    async with world.server() as control:
        sandbox, running = await started(world, control), await started(world, control)
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        await control.kill_all("down")

        assert (await world.store.get_sandbox(running.id)).status is Status.KILLED
        assert (await world.store.get_sandbox(sandbox.id)).status is Status.PAUSED
        assert await world.checkpoints.names() == {f"{sandbox.id}-1"}
