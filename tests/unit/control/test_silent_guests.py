"""Guests that do not answer when they are paused: who is asked, what is said of it, and what follows."""

import asyncio
from dataclasses import replace

import pytest
from fakes.crashes import Crash, Points, life
from fakes.sleepers import FILES, MEMORY, MINUTE, started, until
from fakes.world import ALICE, World, outcome, turns

from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    FailedPreconditionError,
    NotFoundError,
    Reason,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import EndReason, Sandbox, Status, Target
from atoll.server.runtimes.fake.faults import Faults


async def paused_silent(world: World, control: Control, **changes: object) -> Sandbox:
    sandbox = await started(world, control, **changes)
    world.faults.fail("probe", UnavailableError("silent"))
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    return sandbox


async def test_a_guest_that_did_not_answer_at_its_pause_is_known_by_that(
    world: World, control: Control
) -> None:
    sandbox = await paused_silent(world, control)
    pause = (await control.get(ALICE, sandbox.id)).pause
    assert pause is not None
    assert pause.silent
    world.runtime.hung.add(sandbox.id)
    world.faults.fail("configure", UnavailableError("silent still"))

    with pytest.raises(FailedPreconditionError, match="did not answer when it was paused") as caught:
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert caught.value.reason is Reason.GUEST_SILENT
    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE, memory=False)
    assert back.status is Status.RUNNING
    await control.settled()
    await world.assert_agreement()


async def test_the_servers_own_trouble_is_not_taken_for_a_silent_guest(
    world: World, control: Control
) -> None:
    sandbox = await paused_silent(world, control)
    world.faults.fail("restore:3", UnavailableError("the store is away"))

    with pytest.raises(UnavailableError, match="the store is away") as caught:
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert caught.value.reason is None
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_requests_do_not_wake_a_guest_that_did_not_answer_at_its_pause(
    world: World, control: Control
) -> None:
    sandbox = await paused_silent(world, control, auto_resume=True)

    for _ in range(2):
        with pytest.raises(FailedPreconditionError, match="did not answer when it was paused") as caught:
            await control.routing.route(sandbox.id)
        assert caught.value.reason is Reason.GUEST_SILENT

    assert world.faults.passed["restore:1"] == 0
    world.faults.hang("restore:1")
    resuming = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached("restore:1")
    waiting = asyncio.create_task(outcome(control.routing.route(sandbox.id)))
    await turns()
    assert not waiting.done()
    control.pausing.stop(sandbox.id)
    await asyncio.wait([resuming])
    assert (await waiting).reason is Reason.GUEST_SILENT
    assert world.faults.passed["restore:1"] == 1


async def test_a_request_that_ends_a_pause_does_not_wake_a_guest_that_is_silent(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control, auto_resume=True)
    world.faults.fail("probe", UnavailableError("silent"))
    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await until(world, sandbox.id, Status.PAUSING)

    refused = await outcome(control.routing.route(sandbox.id))

    assert refused.reason is Reason.GUEST_SILENT
    assert (await pausing).status is Status.PAUSED
    assert world.faults.passed["restore:1"] == 0


async def test_a_guest_that_was_only_slow_at_its_pause_comes_back_with_its_memory(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    world.faults.fail("probe", UnavailableError("busy"))
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert world.runtime.recall(sandbox.id) == ("kept", "kept")
    again = await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    assert again.pause is not None
    assert not again.pause.silent


@pytest.mark.parametrize("kind", [MEMORY, FILES])
async def test_who_wants_a_guest_that_answers_is_refused_without_one(
    world: World, control: Control, kind: CheckpointKind
) -> None:
    sandbox = await started(world, control)
    world.faults.fail("probe", UnavailableError("silent"))

    with pytest.raises(UnavailableError, match="silent"):
        await control.pausing.pause(ALICE, sandbox.id, kind, healthy=True)

    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING
    paused = await control.pausing.pause(ALICE, sandbox.id, kind, healthy=True)
    assert paused.status is Status.PAUSED
    await world.assert_agreement()


async def test_what_is_to_end_while_its_guest_is_asked_is_not_written_down(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    at = world.faults.at

    async def ending(place: str) -> None:
        await at(place)
        if place == "probe":
            row = await world.store.get_sandbox(sandbox.id)
            ends = replace(row, target=Target.KILLED, status=Status.KILLING, end_reason=EndReason.KILLED)
            await world.store.replace_sandbox(row, ends)

    world.faults.at = ending  # type: ignore[method-assign]

    with pytest.raises(NotFoundError):
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    assert world.faults.passed["checkpoint:1"] == 0


@pytest.mark.parametrize("healthy", [True, False])
async def test_a_kill_does_not_wait_for_a_guest_that_is_asked(
    world: World, control: Control, healthy: bool
) -> None:
    sandbox = await started(world, control)
    world.faults.hang("probe")
    pausing = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY, healthy=healthy)))
    await world.faults.reached("probe")

    assert (await control.kill(ALICE, sandbox.id)).status is Status.KILLED

    assert isinstance(await pausing, NotFoundError)
    await control.settled()
    await world.assert_agreement()


async def test_a_server_that_stops_while_a_guest_is_asked_leaves_it_running(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.hang("probe")
        pausing = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
        await world.faults.reached("probe")
    assert isinstance(await pausing, UnavailableError)

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING
        await world.assert_agreement()


async def test_a_server_that_is_killed_while_a_guest_is_asked_leaves_it_running(world: World) -> None:
    dying = Points()
    dying.fail("probe", Crash())
    told = list[SandboxId]()

    async def paused(control: Control) -> None:
        told.append((await started(world, control)).id)
        await control.pausing.pause(ALICE, told[0], MEMORY)

    await life(world, dying, paused)
    assert dying.passed["probe"] == 1

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        assert (await control.get(ALICE, told[0])).status is Status.RUNNING
        await world.assert_agreement()


async def test_a_refusal_gives_nobody_more_time(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=MINUTE / 2)
    world.faults.fail("probe", UnavailableError("silent"))

    refused = await outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY, healthy=True))

    assert refused.reason is Reason.PAUSE_REFUSED
    assert (await control.get(ALICE, sandbox.id)).deadline == sandbox.deadline


async def test_what_boots_anyway_is_not_asked(world: World, control: Control) -> None:
    sandbox = await started(world, control)

    await control.pausing.pause(ALICE, sandbox.id, FILES)

    assert world.faults.passed["probe"] == 0
