"""Pause and resume: what callers are promised, and that no death of the server loses a paused sandbox."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from fakes.crashes import Crash, Points, life
from fakes.world import ALICE, World, outcome, small, turns, wish

from atoll.server.control.configuring import spec_of
from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    FailedPreconditionError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import SandboxId, TeamId
from atoll.server.domain.sandbox import EndReason, OnDeadline, Sandbox, Status, Target
from atoll.server.ports.store import SandboxFilter
from atoll.server.runtimes.fake.faults import Faults

BOB = Actor(team_id=TeamId("others"), key_id="bob", key_name="bob")
MINUTE = timedelta(minutes=1)
MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES
# More than the script here has; a test makes sure of it.
MOST_POINTS = 90


async def started(world: World, control: Control, **changes: object) -> Sandbox:
    sandbox = await control.create(ALICE, wish(**changes))
    world.runtime.remember(sandbox.id, "kept")
    return sandbox


async def until(world: World, sandbox_id: SandboxId, status: Status) -> Sandbox:
    async with asyncio.timeout(10):
        while (row := await world.store.get_sandbox(sandbox_id)).status is not status:
            await asyncio.sleep(0)
    return row


async def test_the_next_server_seals_what_the_last_one_left(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        world.faults.fail("seal", UnavailableError("broken"))
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        await control.settled()
    before = world.faults.passed["seal"]

    async with world.server():
        await world.faults.reached("seal", times=before + 1)


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


async def test_checksums_of_what_is_large_follow_and_nobody_waits(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.fail("seal", UnavailableError("the disk is slow"))

    for number in range(1, 3):
        assert (await control.pausing.pause(ALICE, sandbox.id, MEMORY)).status is Status.PAUSED
        await control.settled()
        assert world.faults.passed["seal"] == number
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    await control.settled()
    await world.assert_agreement()


async def test_checksums_are_not_computed_while_it_is_brought_back(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("seal")
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await world.faults.reached("seal")
    world.faults.fail("restore:1", UnavailableError("not now"))

    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    # The one that hung was given up; what stays paused gets its checksums all the same.
    await world.faults.reached("seal", times=2)
    await control.settled()
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)


async def test_checksums_that_begin_anew_can_be_stopped_anew(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("seal", times=2)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await world.faults.reached("seal")
    world.faults.fail("restore:1", UnavailableError("not now"))
    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    await world.faults.reached("seal", times=2)

    # Nobody else lets those go on.
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    await control.settled()
    await world.assert_agreement()


async def test_checksums_are_not_computed_while_it_comes_back_to_boot(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("seal")
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await world.faults.reached("seal")

    await control.pausing.connect(ALICE, sandbox.id, MINUTE, memory=False)

    await control.settled()
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


async def test_without_its_memory_a_sandbox_boots(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, FILES)

    await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert world.runtime.recall(sandbox.id) == ("", "kept")


async def test_a_sandbox_boots_from_its_files_though_its_memory_was_kept(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

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
    sandbox = await started(world, control, on_deadline=before)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
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
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

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
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    # What would not go of a machine is tried once more for whoever waits.
    world.faults.fail(place, UnavailableError("not now"), times=times)

    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE, memory=False)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")
    await control.settled()
    await world.assert_agreement()


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
            await control.route(sandbox.id)
        assert caught.value.reason is Reason.GUEST_SILENT

    assert world.faults.passed["restore:1"] == 0
    world.faults.hang("restore:1")
    resuming = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached("restore:1")
    waiting = asyncio.create_task(outcome(control.route(sandbox.id)))
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

    refused = await outcome(control.route(sandbox.id))

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


async def test_a_machine_that_ends_while_it_is_brought_back_costs_no_paused_sandbox(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    world.faults.hang("configure")
    resume = asyncio.create_task(outcome(control.pausing.connect(ALICE, sandbox.id, MINUTE)))
    await world.faults.reached("configure", times=2)

    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
    await turns()
    await control.settling.stop_all()

    assert isinstance(await resume, UnavailableError)
    await control.settled()
    await world.assert_agreement()
    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert back.status is Status.RUNNING
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_connect_leaves_a_running_sandbox_as_it_is(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=10 * MINUTE)

    same, resumed = await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert (same, resumed) == (sandbox, False)


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
        await control.route(sandbox.id)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
    await world.assert_agreement()


async def test_a_paused_sandbox_is_killed_with_all_that_is_left_of_it(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

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


@pytest.mark.parametrize("place", ["restore:1", "restore:2", "restore:3", "configure"])
async def test_who_cannot_be_brought_back_stays_paused(world: World, control: Control, place: str) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    world.faults.fail(place, UnavailableError("not now"))

    with pytest.raises(UnavailableError, match="not now"):
        await control.pausing.connect(ALICE, sandbox.id, MINUTE)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED
    await world.assert_agreement()
    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert back.address == sandbox.address
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


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


async def test_traffic_wakes_those_that_want_it_once(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE, auto_resume=True)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)

    routes = await asyncio.gather(*(control.route(sandbox.id) for _ in range(5)))

    assert {route.address for route in routes} == {sandbox.address}
    row = await control.get(ALICE, sandbox.id)
    assert (row.generation, row.deadline) == (2, world.clock.now() + world.limits.wake_timeout)


async def test_the_edge_is_told_of_one_that_is_being_paused(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:2")
    pausing = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
    await world.faults.reached("checkpoint:2")

    route = await control.route(sandbox.id)

    assert (route.status, route.address) == (Status.PAUSING, None)
    control.pausing.stop(sandbox.id)
    await pausing


async def test_the_edge_is_told_of_one_that_is_being_resumed(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    # Paused, it is none that a client may wait for.
    with pytest.raises(NotFoundError):
        await control.route(sandbox.id)
    world.faults.hang("restore:1")
    resuming = asyncio.create_task(outcome(control.pausing.connect(ALICE, sandbox.id, MINUTE)))
    await world.faults.reached("restore:1")

    route = await control.route(sandbox.id)

    assert (route.status, route.address) == (Status.RESUMING, None)
    control.pausing.stop(sandbox.id)
    await resuming


async def test_traffic_waits_for_the_pause_that_it_ends(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE, auto_resume=True)
    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await until(world, sandbox.id, Status.PAUSING)

    route = await control.route(sandbox.id)

    assert (route.status, route.address) == (Status.RUNNING, sandbox.address)
    await pausing
    assert (await control.get(ALICE, sandbox.id)).generation == 2


async def test_why_traffic_wakes_nobody_is_said(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=MINUTE, on_deadline=OnDeadline.PAUSE, auto_resume=True)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    world.faults.fail("restore:1", FailedPreconditionError("Checkpoint 'x' is damaged"))

    with pytest.raises(FailedPreconditionError, match="is damaged"):
        await control.route(sandbox.id)

    assert (await control.get(ALICE, sandbox.id)).status is Status.PAUSED


async def test_calls_at_the_same_time_share_the_work(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    pauses = await asyncio.gather(
        *(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)) for _ in range(3))
    )
    assert sorted(isinstance(one, FailedPreconditionError) for one in pauses) == [False, True, True]

    back = await asyncio.gather(
        *(control.pausing.connect(ALICE, sandbox.id, MINUTE * n) for n in range(1, 4))
    )

    assert {row.generation for row, _ in back} == {2}
    await control.settled()
    await world.assert_agreement()


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


@pytest.mark.parametrize("verb", ["pause", "connect"])
async def test_a_kill_in_the_middle_wins(world: World, control: Control, verb: str) -> None:
    sandbox = await started(world, control)
    if verb == "connect":
        await control.pausing.pause(ALICE, sandbox.id, MEMORY)
        work = asyncio.create_task(outcome(control.pausing.connect(ALICE, sandbox.id, MINUTE)))
        await until(world, sandbox.id, Status.RESUMING)
    else:
        work = asyncio.create_task(outcome(control.pausing.pause(ALICE, sandbox.id, MEMORY)))
        await until(world, sandbox.id, Status.PAUSING)

    assert (await control.kill(ALICE, sandbox.id)).status is Status.KILLED

    assert isinstance(await work, NotFoundError)
    await control.settled()
    await world.assert_agreement()


@pytest.mark.parametrize("kind", [MEMORY, FILES])
async def test_a_machine_that_ends_while_it_is_resumed_loses_nothing(
    world: World, control: Control, kind: CheckpointKind
) -> None:
    sandbox = await started(world, control)
    await control.pausing.pause(ALICE, sandbox.id, kind)
    world.faults.hang("configure")
    times = world.faults.passed["configure"]

    resuming = asyncio.create_task(control.pausing.connect(ALICE, sandbox.id, MINUTE))
    await world.faults.reached("configure", times=times + 1)
    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED, "its gofer was killed")

    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="ended while it was being started"):
            await resuming
    await control.settled()
    assert (await world.store.get_sandbox(sandbox.id)).status is Status.PAUSED
    await world.assert_agreement()
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert world.runtime.recall(sandbox.id)[1] == "kept"


async def test_a_machine_that_ends_when_it_is_written_down_is_kept(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("checkpoint:2")

    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await world.faults.reached("checkpoint:2")
    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED, "its sentry was killed")
    await asyncio.sleep(0.05)
    control.pausing.stop(sandbox.id)
    await asyncio.wait([pausing])
    await control.settled()

    assert (await world.store.get_sandbox(sandbox.id)).status is Status.PAUSED
    await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert world.runtime.recall(sandbox.id) == ("kept", "kept")


async def test_no_pause_is_acknowledged_of_a_sandbox_that_is_killed(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    world.faults.hang("forget")

    pausing = asyncio.create_task(control.pausing.pause(ALICE, sandbox.id, MEMORY))
    await world.faults.reached("forget")
    row = await world.store.get_sandbox(sandbox.id)
    ending = replace(row, target=Target.KILLED, status=Status.KILLING, end_reason=EndReason.KILLED)
    await world.store.replace_sandbox(row, ending)

    with pytest.raises(NotFoundError):
        await pausing


async def test_paused_sandboxes_take_no_place_of_running_ones(world: World) -> None:
    world.limits = small(max_sandboxes=1)
    async with world.server() as control:
        first = await started(world, control)
        await control.pausing.pause(ALICE, first.id, MEMORY)
        second = await started(world, control)

        with pytest.raises(ResourceExhaustedError):
            await control.pausing.connect(ALICE, first.id, MINUTE)

        await control.kill(ALICE, second.id)
        assert (await control.pausing.connect(ALICE, first.id, MINUTE))[1]


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


async def script(world: World, control: Control, told: dict[str, SandboxId]) -> None:
    """Create, pause, resume, pause, and kill another one that is paused."""
    sandbox = await started(world, control, timeout=10 * MINUTE)
    told["created"] = sandbox.id
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    await control.pausing.connect(ALICE, sandbox.id, 10 * MINUTE)
    await control.pausing.pause(ALICE, sandbox.id, MEMORY)
    other = await started(world, control, timeout=10 * MINUTE)
    await control.pausing.pause(ALICE, other.id, FILES)
    await control.kill(ALICE, other.id)
    told["killed"] = other.id


async def test_the_script_has_no_more_points_than_are_tried(world: World) -> None:
    points, told = Points(), dict[str, SandboxId]()

    await life(world, points, lambda control: script(world, control, told))

    assert set(told) == {"created", "killed"}
    assert 60 < points.count < MOST_POINTS, points.count


@pytest.mark.parametrize("point", range(1, MOST_POINTS))
async def test_a_server_that_dies_anywhere_loses_no_byte(world: World, point: int) -> None:
    told = dict[str, SandboxId]()

    await life(world, Points(point, Points.die), lambda control: script(world, control, told))

    world.renew(Faults())
    async with world.server() as control:
        await control.settled()
        await world.assert_agreement()
        rows = await world.rows()
        if (created := told.get("created")) is not None:
            assert rows[created].status in (Status.RUNNING, Status.PAUSED)
            row, resumed = await control.pausing.connect(ALICE, created, MINUTE)
            assert world.runtime.recall(created) == ("kept", "kept")
            if resumed:
                assert world.guest.configurations[created].generation == row.generation
        if (killed := told.get("killed")) is not None:
            assert rows[killed].status is Status.KILLED
        await control.settled()
        await world.assert_agreement()
        assert await world.store.count_sandboxes(SandboxFilter(statuses=frozenset({Status.FAILED}))) <= 1
