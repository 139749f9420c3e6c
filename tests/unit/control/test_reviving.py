"""What comes back when its machine ended: from the last snapshot, and what is persistent in any case."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.crashes import Points, life
from fakes.events import sandboxes_in
from fakes.world import ALICE, World, outcome, small, turns, wish

from atoll.server.control.service import Control
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import FailedPreconditionError, ResourceExhaustedError, UnavailableError
from atoll.server.domain.events import EventType
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.keys import DEFAULT_TEAM
from atoll.server.domain.logs import life as life_lines
from atoll.server.domain.sandbox import EndReason, Sandbox, Status, Target
from atoll.server.domain.upkeep import NEVER, Fall, Restart, Upkeep
from atoll.server.ports.events import EventQuery
from atoll.server.runtimes.fake.faults import Faults
from atoll.server.stores.events import SqliteEvents

MINUTE = timedelta(minutes=1)
LASTING = Upkeep(persistent=True, restart=Restart.FROM_SNAPSHOT)
MOST_POINTS = 50


async def started(world: World, control: Control, upkeep: Upkeep = LASTING, **changes: Any) -> Sandbox:
    sandbox = await control.create(ALICE, wish(upkeep=upkeep, **changes))
    world.runtime.remember(sandbox.id, "first")
    return sandbox


async def until(world: World, sandbox_id: SandboxId, status: Status, generation: int = 0) -> Sandbox:
    # Beside the server: looking is no step of its work, and would be counted as one.
    beside = sandboxes_in(world.database)
    async with asyncio.timeout(10):
        while True:
            row = await beside.get_sandbox(sandbox_id)
            if row.status is status and row.generation >= generation:
                return row
            await asyncio.sleep(0)


async def told(world: World, sandbox_id: SandboxId) -> list[tuple[EventType, Any]]:
    query = EventQuery(team_id=DEFAULT_TEAM, sandbox_id=sandbox_id, limit=100, oldest_first=True)
    return [(one.type, one.data) for one in await SqliteEvents(world.database).list_events(query)]


async def test_a_persistent_sandbox_has_no_deadline(world: World, control: Control) -> None:
    sandbox = await started(world, control, timeout=MINUTE)
    assert sandbox.deadline == NEVER

    world.clock.advance(timedelta(days=400))
    await turns()
    await control.settled()
    assert (await control.get(ALICE, sandbox.id)).status is Status.RUNNING

    with pytest.raises(FailedPreconditionError, match="has no deadline"):
        await control.set_timeout(ALICE, sandbox.id, MINUTE)
    assert (await control.refresh(ALICE, sandbox.id, MINUTE)).deadline == NEVER
    await control.pausing.pause(ALICE, sandbox.id, CheckpointKind.MEMORY)
    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert back.deadline == NEVER


async def test_who_fell_comes_back_from_its_last_snapshot_as_the_same_sandbox(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control, Upkeep(restart=Restart.FROM_SNAPSHOT), timeout=60 * MINUTE)
    await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
    world.clock.advance(MINUTE)
    world.runtime.remember(sandbox.id, "second")
    snapshot = await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
    world.runtime.remember(sandbox.id, "lost")

    world.runtime.end(sandbox.id, EndReason.RUNTIME_ENDED)
    back = await until(world, sandbox.id, Status.RUNNING, 2)
    await control.settled()

    assert world.runtime.recall(sandbox.id) == ("second", "second")
    assert (back.generation, back.target, back.deadline) == (2, Target.RUNNING, sandbox.deadline)
    assert back.fall is not None
    assert (back.fall.reason, back.fall.origin, back.fall.times) == ("runtime_ended", snapshot.id, 1)
    assert back.fall.back_at is not None
    token = control.access_token(sandbox.id)
    assert world.guest.configurations[sandbox.id].access_token == token
    assert sandbox.id in world.edge.forgotten
    paused, resumed = (await told(world, sandbox.id))[-2:]
    assert paused == (EventType.PAUSED, {"reason": "runtime_ended"})
    assert resumed == (EventType.RESUMED, {"reason": "runtime_ended", "snapshot_id": snapshot.id})
    messages = [line.message for line in life_lines(back)]
    assert messages[-2:] == ["sandbox's machine ended", "sandbox came back"]
    await world.assert_agreement()


async def test_who_is_to_stay_down_or_has_no_snapshot_has_failed(world: World, control: Control) -> None:
    never = await started(world, control, Upkeep(persistent=True))
    without = await started(world, control, Upkeep(restart=Restart.FROM_SNAPSHOT))
    await control.snapshots.take(ALICE, never.id, None, CheckpointKind.MEMORY)

    for sandbox in (never, without):
        world.runtime.end(sandbox.id, EndReason.OOM)
        row = await until(world, sandbox.id, Status.FAILED)
        assert row.end_reason is EndReason.OOM
    await control.settled()
    await world.assert_agreement()


async def test_a_persistent_sandbox_without_a_snapshot_begins_anew(world: World, control: Control) -> None:
    sandbox = await started(world, control)

    world.runtime.end(sandbox.id)
    back = await until(world, sandbox.id, Status.RUNNING, 2)
    await control.settled()

    assert world.runtime.recall(sandbox.id) == ("", "")
    assert back.fall is not None
    assert back.fall.origin is None
    await world.assert_agreement()


async def test_a_snapshot_that_is_deleted_later_is_not_missed(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    snapshot = await control.snapshots.take(ALICE, sandbox.id, "kept", CheckpointKind.MEMORY)
    world.faults.hang("restore:1")
    world.runtime.end(sandbox.id)
    await world.faults.reached("restore:1")
    assert await control.snapshots.delete(ALICE, snapshot.id)
    await control.settling.stop_all()

    world.clock.advance(MINUTE)
    await until(world, sandbox.id, Status.RUNNING, 3)
    await control.settled()

    assert world.runtime.recall(sandbox.id) == ("first", "first")
    await world.assert_agreement()


async def test_a_damaged_snapshot_is_passed_over_for_an_older_one(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    older = await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.FILES)
    world.clock.advance(MINUTE)
    world.runtime.remember(sandbox.id, "second")
    newer = await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
    (world.checkpoints.path(newer.id) / "memory").write_text("broken")

    world.runtime.end(sandbox.id)
    back = await until(world, sandbox.id, Status.RUNNING, 3)
    await control.settled()

    assert world.runtime.recall(sandbox.id) == ("", "first")
    assert back.fall is not None
    assert back.fall.origin == older.id
    await world.assert_agreement()


async def test_what_does_not_come_back_is_tried_so_often_and_then_waits_for_its_owner(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control)
    await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
    tries = world.limits.restart_tries
    world.faults.fail("restore:2", UnavailableError("no room"), times=tries)

    world.runtime.end(sandbox.id)
    for number in range(1, tries):
        await world.faults.reached("restore:2", times=number)
        soon = world.clock.now() + world.limits.restart_delay * 2 ** (number - 1)
        await world.clock.slept_until(soon)
        world.clock.advance(soon - world.clock.now())
    await world.faults.reached("restore:2", times=tries)
    await control.settled()

    row = await world.store.get_sandbox(sandbox.id)
    assert (row.status, row.target) == (Status.PAUSED, Target.RUNNING)
    assert row.fall is not None
    assert row.fall.problem == "no room"
    assert (EventType.UPDATED, {"restart_failed": "no room"}) in await told(world, sandbox.id)
    back, _ = await control.pausing.connect(ALICE, sandbox.id, MINUTE)
    assert back.status is Status.RUNNING
    assert world.runtime.recall(sandbox.id) == ("first", "first")
    await control.settled()
    await world.assert_agreement()


async def test_who_falls_again_and_again_waits_longer_and_fails_in_the_end(
    world: World, control: Control
) -> None:
    sandbox = await started(world, control, timeout=60 * MINUTE)
    await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
    for number in range(1, world.limits.restarts + 1):
        world.runtime.end(sandbox.id)
        if number > 1:
            soon = world.clock.now() + world.limits.restart_delay * 2 ** (number - 2)
            await world.clock.slept_until(soon)
            world.clock.advance(soon - world.clock.now())
        row = await until(world, sandbox.id, Status.RUNNING, number + 1)
        assert row.fall is not None
        assert row.fall.times == number

    world.runtime.end(sandbox.id, EndReason.GUEST_ENDED)
    assert (await until(world, sandbox.id, Status.FAILED)).end_reason is EndReason.GUEST_ENDED
    await control.settled()
    await world.assert_agreement()


@pytest.mark.parametrize("delay", [timedelta(seconds=10), timedelta(days=1)])
@pytest.mark.parametrize("times", [1, 48, 5000])
async def test_who_fell_very_often_waits_the_longest_delay(
    tmp_path: Path, delay: timedelta, times: int
) -> None:
    most = delay * 1.5
    limits = small(restarts=10_000, restart_delay=delay, restart_delay_most=most)
    world = World(tmp_path, limits=limits)
    async with world.server() as control:
        sandbox = await started(world, control)
        await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
        row = await world.store.get_sandbox(sandbox.id)
        fall = Fall(reason="guest_ended", at=world.clock.now(), times=times, back_at=world.clock.now())
        await world.store.replace_sandbox(row, replace(row, fall=fall))

        world.runtime.end(sandbox.id)
        pause = delay if times == 1 else most
        async with asyncio.timeout(10):
            await world.clock.slept_until(world.clock.now() + pause)
        world.clock.advance(pause)
        row = await until(world, sandbox.id, Status.RUNNING, 2)

        assert row.fall is not None
        assert row.fall.times == times + 1


async def test_who_is_killed_while_it_comes_back_stays_killed(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
    world.faults.hang("restore:1")
    world.runtime.end(sandbox.id)
    await world.faults.reached("restore:1")

    await control.kill(ALICE, sandbox.id)
    await control.settled()

    assert (await world.store.get_sandbox(sandbox.id)).status is Status.KILLED
    await world.assert_agreement()


async def test_after_the_host_was_away_what_is_persistent_is_resumed(world: World) -> None:
    async with world.server() as control:
        kept = await started(world, control, Upkeep(persistent=True))
        bare = await started(world, control, Upkeep(persistent=True))
        other = await started(world, control, Upkeep())
        await control.snapshots.take(ALICE, kept.id, None, CheckpointKind.MEMORY)
        world.runtime.remember(kept.id, "lost")
    for sandbox in (kept, bare, other):
        world.runtime.end_unseen(sandbox.id)
    world.renew(Faults())

    async with world.server() as control:
        await until(world, kept.id, Status.RUNNING, 2)
        await until(world, bare.id, Status.RUNNING, 2)
        await control.settled()

        assert world.runtime.recall(kept.id) == ("first", "first")
        assert world.runtime.recall(bare.id) == ("", "")
        assert (await world.store.get_sandbox(other.id)).end_reason is EndReason.LOST
        await world.assert_agreement()


async def test_what_is_persistent_is_written_down_when_the_home_is_taken_down(world: World) -> None:
    async with world.server() as control:
        sandbox = await started(world, control)
        full = await started(world, control)
        other = await started(world, control, Upkeep())
        await control.snapshots.take(ALICE, full.id, None, CheckpointKind.MEMORY)
        for one in (sandbox, full):
            world.runtime.remember(one.id, "now")
        world.faults.fail("checkpoint:1", ResourceExhaustedError("full"))
        await control.kill_all("taken down")
        rows = await world.rows()
        assert rows[other.id].status is Status.KILLED
        assert {rows[one.id].status for one in (sandbox, full)} == {Status.PAUSED}
        assert world.runtime.running() == set()
    world.renew(Faults())

    async with world.server() as control:
        for one in (sandbox, full):
            await until(world, one.id, Status.RUNNING, 2)
        await control.settled()
        # Which of the two the disk was full for is not said here: one has all, the other its files.
        found = {world.runtime.recall(one.id) for one in (sandbox, full)}
        assert found == {("now", "now"), ("", "now")}
        await world.assert_agreement()


async def test_what_is_left_of_many_is_removed_so_many_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, limits=small(concurrent_destroys=3, close_timeout=timedelta(seconds=10)))
    async with world.server() as control:
        fallen = [await started(world, control) for _ in range(7)]
        stuck = UnavailableError("busy")
        world.faults.hang("destroy:1", times=3)
        taking = asyncio.create_task(outcome(control.kill_all("taken down")))
        async with asyncio.timeout(10):
            await world.faults.reached("destroy:1", times=3)
        await turns()
        assert world.faults.passed["destroy:1"] == 3

        world.faults.let_go("destroy:1")
        # One that would not go leaves no other one there.
        world.faults.fail("destroy:2", stuck)

        assert await taking is stuck
        assert len(await world.runtime.remains()) == 1
        await control.kill_all("taken down")
        assert await world.runtime.remains() == []
        rows = await world.rows()
        assert {rows[one.id].status for one in fallen} == {Status.PAUSED}


async def script(world: World, control: Control) -> None:
    sandbox = await started(world, control)
    await control.snapshots.take(ALICE, sandbox.id, None, CheckpointKind.MEMORY)
    world.runtime.end(sandbox.id)
    await until(world, sandbox.id, Status.RUNNING, 2)
    await control.settled()


async def test_the_script_has_as_many_points_as_are_tried(world: World) -> None:
    points = Points()

    await life(world, points, lambda control: script(world, control))

    assert MOST_POINTS - 15 < points.count < MOST_POINTS, points.count


@pytest.mark.parametrize("point", range(8, MOST_POINTS))
async def test_a_server_that_dies_anywhere_leaves_it_to_the_next_one(world: World, point: int) -> None:
    await life(world, Points(point, Points.die), lambda control: script(world, control))
    was = await rows_of(world)

    world.renew(Faults())
    async with world.server() as control:
        for row in was:
            if row.started_at is not None:
                await until(world, row.id, Status.RUNNING)
        await control.settled()
        await world.assert_agreement()


async def rows_of(world: World) -> list[Sandbox]:
    world.renew(Faults())
    async with world.database:
        return list((await world.rows()).values())
